"""Files that mean harm, or are broken in odd ways: each is refused in one sentence, before any harm."""

import dataclasses
import json
import os
import pickle
import struct

import equinox as eqx
import hostile
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile import TINY, expect_refusal, rewrite
from hub_cache import make_snapshot
from safetensors.numpy import load_file, save_file

import zoo
import zoo._load
from zoo import families
from zoo.__main__ import main
from zoo._files import plain
from zoo._golden import computed
from zoo._leaves import named_leaves

copy = hostile.copy


# Weights


class Bomb:
    """What a pickle runs when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize(
    "head, part", [(b"", "names posix.mkdir, and the zoo reads only arrays"), (b"PK\x03\x04", "whole")]
)
def test_a_pickle_is_no_safetensors_file_and_runs_nothing(copy, tmp_path, head, part):
    (copy / "model.safetensors").write_bytes(head + pickle.dumps(Bomb(tmp_path / "harm")))
    expect_refusal(copy, "model.safetensors ", part)
    assert not (tmp_path / "harm").exists()


def test_a_folder_without_weights_is_told(copy):
    (copy / "model.safetensors").unlink()
    expect_refusal(copy, "holds no model.safetensors", "or pytorch_model.bin", kind=FileNotFoundError)


def test_harm_in_pytorch_model_bin_is_refused(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "harm"), 2))
    expect_refusal(copy, "pytorch_model.bin names posix.mkdir")
    (copy / "pytorch_model.bin").unlink()
    for index in ([], {}, {"weight_map": {}}, {"weight_map": {"a": 1}}):
        (copy / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        expect_refusal(copy, "pytorch_model.bin.index.json has no weight_map")
    rewrite(copy, "pytorch_model.bin.index.json", weight_map={"a": "../tiny/model.safetensors"})
    expect_refusal(copy, "is not the name of a file inside of a model's folder")
    assert not (tmp_path / "harm").exists()


def test_names_of_arrays_are_shown_as_text_and_not_all(copy):
    surplus = {name: np.zeros(1, np.float32) for name in ("\x1b[2J evil\n", *map(str, range(20_000)))}
    save_file(load_file(copy / "model.safetensors") | surplus, copy / "model.safetensors")
    expect_refusal(copy, "does not fit the model: ", " is surplus; and 19981 more.")
    with pytest.raises(ValueError) as raised:
        zoo.load(copy)
    assert not any(ord(letter) < 32 for letter in str(raised.value))


def test_a_file_of_very_many_arrays_is_refused(copy):
    names = (f"stages.{index}.weight" for index in range(1 << 16))
    save_file({name: np.zeros(0, np.float32) for name in names} | {"a": np.zeros(1)}, copy / "model.safetensors")
    expect_refusal(copy, "holds 65537 arrays, and the zoo reads up to 65536")


def test_weights_in_a_dtype_that_numpy_has_not_are_told(copy):
    shapes = {name: array.shape for name, array in load_file(copy / "model.safetensors").items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F8_E4M3", "shape": shape, "data_offsets": [end, end + int(np.prod(shape))]}
        end += int(np.prod(shape))
    text = json.dumps(header).encode()
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    expect_refusal(copy, "holds arrays in F8_E4M3: convert them to float32")


def test_weights_in_bfloat16_are_read(copy):
    arrays = load_file(copy / "model.safetensors")
    save_file({name: array.astype(jnp.bfloat16) for name, array in arrays.items()}, copy / "model.safetensors")
    clip = zoo.load(copy)
    for name, leaf in named_leaves(clip.model, clip.state).items():
        np.testing.assert_array_equal(leaf, np.asarray(jnp.asarray(arrays[name], jnp.bfloat16), np.float32))


# Golden outputs


def test_a_long_golden_wave_is_not_run(copy):
    wave = np.zeros(1 << 17, np.float32)
    save_file({"wave": wave, "output": np.zeros(3, np.float32)}, copy / "golden.safetensors")
    expect_refusal(copy, "golden.safetensors holds a wave of 131072 samples, longer than any that zoo", verify=True)


def test_a_model_that_memory_does_not_hold_is_told():
    entry = dataclasses.replace(TINY, network=TINY.network | {"stem_padding": (2**20, 2**20)})
    model, state = zoo.create(entry, key=jax.random.key(0))
    clip = zoo.Pretrained(eqx.nn.inference_mode(model), state, entry)
    with pytest.raises(ValueError, match=r"tiny cannot be run on 4000 samples on this machine \(RESOURCE_EXHAUSTED"):
        computed(clip, np.zeros(4000, np.float32))


# Names, links and sizes


@pytest.mark.parametrize("file", ["../x", "a/../../x", "/etc/passwd", "..", "", "..\\x", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(file):
    with pytest.raises(ValueError, match="is not the name of a file inside of a model's folder"):
        plain(file)


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A function that publishes an entry whose repo is in an empty cache with a label file; gives that file's path."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def publish(**fields):
        checkpoint = zoo.Checkpoint(repo="owner/foreign", table="topel_convnext", **fields)
        entry = dataclasses.replace(TINY, labels=(), checkpoint=checkpoint)
        monkeypatch.setattr(families, "entries", lambda: {entry.name: entry})
        return make_snapshot(tmp_path / "hub", "owner/foreign") / "labels.csv"

    return publish


@pytest.mark.parametrize("fields", [{"label_file": "../../../../x"}, {"file": "../../../../x"}])
def test_no_entry_reads_outside_of_its_repo(published, tmp_path, fields):
    published(**fields)
    (tmp_path / "x").write_text("index,display_name\n0,a\n")
    expect_refusal("tiny", "'../../../../x' is not the name of a file inside")


@pytest.mark.parametrize(
    "content", [b"", b"index,name\n0,a\n", b"index,display_name\nfirst,a\n", b"index,display_name\n0\n", b"\xff", b"\0"]
)
def test_a_label_file_that_is_no_table_is_refused(published, content):
    path = published(label_file="labels.csv")
    path.write_bytes(content)
    expect_refusal("tiny", "labels")


@pytest.mark.parametrize("file", ["config.json", "labels.csv", "golden.safetensors", "model.safetensors"])
def test_a_file_of_many_gigabytes_is_not_read(copy, published, file):
    path = published(label_file="labels.csv") if file == "labels.csv" else copy / file
    with open(path, "wb") as stream:
        stream.truncate(1 << 36)  # no byte of it is on the disk
    expect_refusal(
        "tiny" if file == "labels.csv" else copy, f"{file} has 68719 MB, and the zoo reads {file}", verify=True
    )


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "golden.safetensors"])
def test_a_link_out_of_the_folder_is_refused(copy, tmp_path, file):
    (copy / file).rename(tmp_path / file)
    (copy / file).symlink_to(tmp_path / file)
    expect_refusal(copy, f"{file} is a link out of its folder", str(tmp_path / file), verify=True)


def test_a_link_within_the_folder_and_a_link_to_the_folder_load(copy, tmp_path):
    (copy / "model.safetensors").rename(copy / "weights")
    (copy / "model.safetensors").symlink_to("weights")
    (tmp_path / "latest").symlink_to(copy)
    assert zoo.load(tmp_path / "latest").labels == TINY.labels


def test_what_only_looks_like_the_hubs_cache_is_refused(copy, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("1" * 40)
    snapshot.parent.mkdir(parents=True)
    copy.rename(snapshot)
    (tmp_path / "blobs").mkdir()
    (snapshot / "config.json").rename(tmp_path / "blobs" / "x")
    (snapshot / "config.json").symlink_to("../../../blobs/x")
    expect_refusal(snapshot, "config.json is a link out of its folder")


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_blob_of_the_hubs_cache_is_no_link_itself(copy, tmp_path, linked):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / ("1" * 40), tmp_path / "models--a--b" / "blobs"
    snapshot.parent.mkdir(parents=True)
    copy.rename(snapshot)
    (tmp_path / "elsewhere").mkdir()
    (snapshot / "config.json").rename(tmp_path / "elsewhere" / "x")
    if linked == "folder":
        blobs.symlink_to(tmp_path / "elsewhere")
    else:
        blobs.mkdir()
        (blobs / "x").symlink_to(tmp_path / "elsewhere" / "x")
    (snapshot / "config.json").symlink_to("../../blobs/x")
    assert (snapshot / "config.json").is_file()
    expect_refusal(snapshot, "config.json is a link out of its folder")


def test_a_card_that_links_to_a_secret_is_not_published(capsys, copy, tmp_path):
    (tmp_path / "secret").write_text("hf_secret")
    (copy / "README.md").unlink()
    (copy / "README.md").symlink_to(tmp_path / "secret")
    for file in ("", "golden.safetensors"):  # a whole folder, and one that is saved anew
        if file:
            (copy / file).unlink()
        assert main(["publish", str(copy), "me/tiny", "--dry-run"]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and "README.md is a link out of its folder" in captured.err


def test_no_device_file_is_read(copy):
    (copy / "config.json").unlink()
    os.mkfifo(copy / "config.json")
    expect_refusal(copy, "holds no config.json", kind=FileNotFoundError)
