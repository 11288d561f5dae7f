"""Folders and repos that mean harm, or are broken in odd ways: each is refused in one sentence, before any harm."""

import dataclasses
import json
import os
import pathlib
import pickle
import shutil
import struct

import equinox as eqx
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import zoo
import zoo._load
from zoo import families
from zoo.__main__ import main
from zoo._files import plain
from zoo._golden import computed
from zoo._leaves import named_leaves

TINY = zoo.Entry(
    name="tiny",
    frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 80},
    network={"type": "ConvNeXt", "depths": (1,), "widths": (4,)},
    classes=3,
    task="multiclass",
    window=0.5,
    labels=("a", "b", "c"),
)
AST = {"model_type": "audio-spectrogram-transformer", "id2label": {"0": "a", "1": "b"}, "hidden_size": 24}
EXTRACTOR = {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models") / "tiny"
    zoo.save(made, *zoo.create(TINY, key=jax.random.key(0)), TINY)
    return made


@pytest.fixture
def copy(folder, tmp_path):
    return pathlib.Path(shutil.copytree(folder, tmp_path / "copy"))


def refused(folder, *parts, kind=ValueError, **options):
    """That loading raises one sentence with these parts."""
    with pytest.raises(kind) as raised:
        zoo.load(folder, **options)
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 1500
    for part in parts:
        assert part in message


def rewrite(folder, file="config.json", **fields):
    """Changes fields of a JSON file."""
    path = folder / file
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(config | fields))


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
    refused(copy, "model.safetensors ", part)
    assert not (tmp_path / "harm").exists()


def test_a_folder_without_weights_is_told(copy):
    (copy / "model.safetensors").unlink()
    refused(copy, "holds no model.safetensors", "or pytorch_model.bin", kind=FileNotFoundError)


def test_harm_in_pytorch_model_bin_is_refused(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "harm"), 2))
    refused(copy, "pytorch_model.bin names posix.mkdir")
    (copy / "pytorch_model.bin").unlink()
    for index in ([], {}, {"weight_map": {}}, {"weight_map": {"a": 1}}):
        (copy / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        refused(copy, "pytorch_model.bin.index.json has no weight_map")
    rewrite(copy, "pytorch_model.bin.index.json", weight_map={"a": "../tiny/model.safetensors"})
    refused(copy, "is not the name of a file inside of a model's folder")
    assert not (tmp_path / "harm").exists()


def test_names_of_arrays_are_shown_as_text_and_not_all(copy):
    surplus = {name: np.zeros(1, np.float32) for name in ("\x1b[2J evil\n", *map(str, range(20_000)))}
    save_file(load_file(copy / "model.safetensors") | surplus, copy / "model.safetensors")
    refused(copy, "does not fit the model: ", " is surplus; and 19981 more.")
    with pytest.raises(ValueError) as raised:
        zoo.load(copy)
    assert not any(ord(letter) < 32 for letter in str(raised.value))


def test_a_file_of_very_many_arrays_is_refused(copy):
    names = (f"stages.{index}.weight" for index in range(1 << 16))
    save_file({name: np.zeros(0, np.float32) for name in names} | {"a": np.zeros(1)}, copy / "model.safetensors")
    refused(copy, "holds 65537 arrays, and the zoo reads up to 65536")


def test_weights_in_a_dtype_that_numpy_has_not_are_told(copy):
    shapes = {name: array.shape for name, array in load_file(copy / "model.safetensors").items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F8_E4M3", "shape": shape, "data_offsets": [end, end + int(np.prod(shape))]}
        end += int(np.prod(shape))
    text = json.dumps(header).encode()
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    refused(copy, "holds arrays in F8_E4M3: convert them to float32")


def test_weights_in_bfloat16_are_read(copy):
    arrays = load_file(copy / "model.safetensors")
    save_file({name: array.astype(jnp.bfloat16) for name, array in arrays.items()}, copy / "model.safetensors")
    clip = zoo.load(copy)
    for name, leaf in named_leaves(clip.model, clip.state).items():
        np.testing.assert_array_equal(leaf, np.asarray(jnp.asarray(arrays[name], jnp.bfloat16), np.float32))


# What a config.json asks for


@pytest.fixture
def unbuilt(monkeypatch):
    """Building anything is a failure."""

    def build(entry):
        raise AssertionError(f"{entry.name} was built")

    monkeypatch.setattr(zoo._load, "skeleton", build)


LOG_MEL, CONVNEXT = TINY.frontend, TINY.network
CONTRASTIVE = {"classes": 0, "task": "contrastive", "labels": ()}
METRIC = {"dataset": "d", "metric": "m", "value": 0.5, "source": "s"}


@pytest.mark.parametrize(
    "fields, part",
    [
        ({"network": CONVNEXT | {"depths": [10**9]}}, "asks for depths 1e+09"),
        ({"network": CONVNEXT | {"depths": [200, 200]}}, "asks for a depth of 400, and the zoo builds up to 256"),
        ({"network": {"type": "CNN", "widths": [1] * 900, "pools": [1] * 900}}, "asks for a depth of 900"),
        ({"network": {"type": "CNN", "widths": [1], "pools": [2**20]}}, "asks for pools 1.04858e+06"),
        ({"network": {"type": "ECAPA", "parts": 10**5}}, "asks for a depth of 100000"),
        ({"network": {"type": "ECAPA", "parts": 64, "taps": [1] * 5}}, "asks for a depth of 320"),
        ({"network": {"type": "DyMN", "pieces": 10**5}}, "asks for pieces 100000, and the zoo builds up to 64"),
        ({"network": {"type": "XVector", "kernels": [10**5]}}, "asks for kernels 100000"),
        ({"model": {"type": "CLAP", "text": {"depth": -1}}, **CONTRASTIVE}, "asks for a depth of -1"),
        ({"network": CONVNEXT | {"stem_padding": [2**20, 2**20]}}, "asks for stem_padding 1.04858e+06"),
        ({"network": CONVNEXT | {"drop_path": 1e8}}, "asks for drop_path 100000000.0: it is a share"),
        ({"network": CONVNEXT | {"drop_path": -3}}, "asks for drop_path -3: it is a share"),
        ({"network": CONVNEXT | {"depths": [-1]}}, "asks for a depth of -1"),
        ({"network": CONVNEXT | {"widths": [10**12]}}, "asks for widths 1e+12"),
        ({"network": CONVNEXT | {"widths": [1e300]}}, "asks for widths 1e+300"),
        ({"network": CONVNEXT | {"widths": [10**3000]}}, "asks for widths beyond 1e300"),
        ({"network": CONVNEXT | {"widths": [4] * 10**6}}, "a widths of length 1e+06"),
        ({"network": CONVNEXT | {"drop_path": float("nan")}}, "asks for drop_path nan"),
        ({"network": CONVNEXT | {"layer_scale": float("inf")}}, "asks for layer_scale inf"),
        ({"network": CONVNEXT | {"pool": "m" * 10**6}}, "a pool of length 1e+06"),
        ({"network": {"type": "AST", "width": 4, "heads": 1, "depth": 10**9}}, "asks for depth 1e+09"),
        ({"frontend": LOG_MEL | {"n_fft": 10**12}}, "asks for n_fft 1e+12"),
        ({"frontend": LOG_MEL | {"n_fft": 2**20, "hop_length": 1}}, "asks for numbers a second 8.38861e+09"),
        ({"frontend": {"type": "LEAF", "sample_rate": 10**6, "bins": 64}}, "numbers a second 6.4e+07"),
        ({"frontend": LOG_MEL | {"bins": 10**5}}, "asks for bins 100000, and the zoo builds up to 1024"),
        ({"frontend": LOG_MEL | {"bins": 1000, "n_fft": 10**6}}, "asks for a table of size 1e+09"),
        ({"frontend": {"type": "KaldiFbank", "sample_rate": 10**6, "frame_length": 1e6}}, "a table of size"),
        ({"frontend": {"type": "LEAF", "sample_rate": 16000, "bins": 64, "window_ms": 1e8}}, "a table of size"),
        ({"frontend": LOG_MEL | {"sample_rate": 10**12}}, "asks for sample_rate 1e+12"),
        ({"model": {"type": "COLA", "width": 10**12}, **CONTRASTIVE}, "asks for width 1e+12"),
        ({"frontend": LOG_MEL | {"sample_rate": True}}, "a sample_rate in Hz, classes and a window of some seconds"),
        ({"window": True}, "a sample_rate in Hz, classes and a window of some seconds"),
        ({"dropout": float("nan")}, "asks for dropout nan: it is a share of at least 0 and below 1"),
        ({"dropout": -5}, "asks for dropout -5"),
        ({"dropout": 1e300}, "asks for dropout 1e+300"),
        ({"dropout": "a" * 10**6}, "aaa"),
        ({"name": "a" * 10**6}, "asks for a text of length 1e+06"),
        ({"name": "a\n" * 10**6, "classes": 4}, "a a a"),
        ({"name": "\ud800"}, r"holds '\ud800' where a line of text is needed"),
        ({"license": "a" * 10**6}, "asks for a text of length 1e+06"),
        ({"labels": ["a", "b", "c" * 10**6]}, "asks for a text of length 1e+06"),
        ({"metrics": [METRIC | {"source": "a" * 10**6}]}, "asks for a text of length 1e+06"),
        ({"metrics": [METRIC | {"value": float("nan")}]}, "asks for a metric of nan"),
        ({"metrics": [METRIC | {"value": 10**3000}]}, "asks for a metric of beyond 1e300"),
        ({"metrics": [METRIC | {"value": True}]}, "a metric that is not the strings"),
        ({"a" * 10**6: 1}, "unknown ['aaa"),
        ({"window": 1e9}, "asks for a window of seconds 1e+09, and the zoo builds up to 3600"),
        ({"classes": 10**12, "labels": ()}, "asks for classes 1e+12"),
        ({"name": "tiny\n\x1b[2J"}, r"holds 'tiny\n\x1b[2J' where a line of text is needed"),
        ({"network": CONVNEXT | {"type": "a\x1b[2J"}}, "where a line of text is needed"),
        ({"network": CONVNEXT | {"a\x1b[2J": 1}}, "where a line of text is needed"),
        ({"labels": ["a", "b", "c\x1b]0;c\x07"]}, "where a line of text is needed"),
        ({"labels": ["a", "b", 3]}, "config.json"),
        ({"metrics": [{}]}, "a metric that is not the strings dataset, metric and source, and a number value"),
        ({"metrics": [{"dataset": [], "metric": "m", "value": 1, "source": "s"}]}, "a metric that is not the strings"),
        ({"metrics": ["good"]}, "wrong type"),
        ({"checkpoint": {"repo": "a/b", "table": "ast", "label_file": "../../x"}}, "unknown ['checkpoint']"),
    ],
)
def test_an_absurd_config_is_refused_before_anything_is_built(copy, unbuilt, fields, part):
    rewrite(copy, **fields)
    refused(copy, "config.json", part)


@pytest.mark.parametrize(
    "text, part",
    [
        (b"[" * 10**6, "more than 10000 lists and objects"),
        (b"[" * 9000, "is not JSON (maximum recursion depth"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "is not the config.json of an audax-eqx model"),
        (b'{"network": ' + b"[" * 900 + b"]" * 900 + b"}", "config.json"),
        (b'{"classes": ' + b"1" * 5000 + b"}", "is not JSON (Exceeds the limit (4300 digits)"),
        (b'{"name": "\xff"}', "config.json is not text in UTF-8 (byte 10)"),
    ],
)
def test_json_that_nobody_writes_is_refused(copy, unbuilt, text, part):
    (copy / "config.json").write_bytes(text)
    refused(copy, part)


@pytest.mark.parametrize(
    "fields",
    [
        {"network": CONVNEXT | {"widths": [2**20]}},
        {"network": {"type": "AST", "width": 2**18, "heads": 1, "depth": 2}},
        {"network": {"type": "ResNet", "depths": [1, 1], "widths": [8, 2**20]}},
        {"model": {"type": "COLA", "width": 2**20}, "network": CONVNEXT | {"widths": [2**13]}, **CONTRASTIVE},
    ],
)
def test_parameters_are_counted_before_there_is_any(copy, fields):
    rewrite(copy, **fields)
    refused(copy, "tiny describes a model of", "e+", "parameters, and the zoo loads up to 4.29e+09")


@pytest.mark.parametrize(
    "config, extractor, part",
    [
        ({"num_hidden_layers": 10**9}, {}, "asks for depth 1e+09"),
        ({"hidden_size": 10**12}, {}, "asks for width 1e+12"),
        ({}, {"sampling_rate": 10**12}, "asks for sample_rate 1e+12"),
        ({"num_mel_bins": 10**5}, {"num_mel_bins": 10**5}, "asks for bins 100000"),
        ({"max_length": 10**400}, {"max_length": 10**400}, "a field of the wrong type"),
        ({"max_length": 10**6}, {"max_length": 10**6}, "a window of seconds 10000"),
        ({"id2label": {"0": "a\x00", "1": "b"}}, {}, "where a line of text is needed"),
    ],
)
def test_an_absurd_config_of_another_library_is_refused(tmp_path, unbuilt, config, extractor, part):
    rewrite(tmp_path, **AST | config)
    rewrite(tmp_path, "preprocessor_config.json", **EXTRACTOR | extractor)
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    refused(tmp_path, part)


@pytest.mark.parametrize(
    "fields", [{"labels": ("a\tb", "b", "c")}, {"window": 4000.0}, {"license": "line\nline"}, {"dropout": 1.0}]
)
def test_nothing_is_saved_that_would_not_load(copy, tmp_path, fields):
    with pytest.raises(ValueError) as saved:
        zoo.save(tmp_path / "new", *zoo.create(TINY, key=jax.random.key(0)), dataclasses.replace(TINY, **fields))
    assert not (tmp_path / "new").exists()
    rewrite(copy, **fields)
    refused(copy, str(saved.value).removeprefix("The entry to save"))


def test_what_a_constructor_refuses_names_the_model(copy):
    rewrite(copy, frontend=LOG_MEL | {"hop_length": -1})
    refused(copy, "tiny: hop_length is -1 samples: it must be at least 1.")


def test_a_number_of_another_library_that_is_none_names_the_model(tmp_path):
    rewrite(tmp_path, model_type="ced", name="ced-tiny", mlp_ratio=float("nan"))
    rewrite(tmp_path, "preprocessor_config.json")
    refused(tmp_path, f"{tmp_path.name}: cannot convert float NaN to integer.")


DEEP = [
    {"type": "ConvNeXt", "depths": (64, 64, 64, 64), "widths": (4, 4, 4, 4)},
    {"type": "BEATs", "width": 8, "depth": 256, "heads": 1, "groups": 1, "kernel": 3},
    {"type": "ECAPA", "channels": 51, "parts": 51, "width": 8},
]


@pytest.mark.parametrize("network", DEEP, ids=lambda network: network["type"])
def test_the_deepest_model_that_is_built_is_compared_with_its_file(copy, network):
    rewrite(copy, network=network)
    refused(copy, "does not fit the model")


# Golden outputs


def test_a_long_golden_wave_is_not_run(copy):
    wave = np.zeros(1 << 17, np.float32)
    save_file({"wave": wave, "output": np.zeros(3, np.float32)}, copy / "golden.safetensors")
    refused(copy, "golden.safetensors holds a wave of 131072 samples, longer than any that zoo.save", verify=True)


def test_a_model_that_memory_does_not_hold_is_told():
    entry = dataclasses.replace(TINY, network=CONVNEXT | {"stem_padding": (2**20, 2**20)})
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
        repo = tmp_path / "hub" / "models--owner--foreign"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text("1" * 40)
        (repo / "snapshots" / ("1" * 40)).mkdir(parents=True)
        return repo / "snapshots" / ("1" * 40) / "labels.csv"

    return publish


@pytest.mark.parametrize("fields", [{"label_file": "../../../../x"}, {"file": "../../../../x"}])
def test_no_entry_reads_outside_of_its_repo(published, tmp_path, fields):
    published(**fields)
    (tmp_path / "x").write_text("index,display_name\n0,a\n")
    refused("tiny", "'../../../../x' is not the name of a file inside")


@pytest.mark.parametrize(
    "content", [b"", b"index,name\n0,a\n", b"index,display_name\nfirst,a\n", b"index,display_name\n0\n", b"\xff", b"\0"]
)
def test_a_label_file_that_is_no_table_is_refused(published, content):
    path = published(label_file="labels.csv")
    path.write_bytes(content)
    refused("tiny", "labels")


@pytest.mark.parametrize("file", ["config.json", "labels.csv", "golden.safetensors", "model.safetensors"])
def test_a_file_of_many_gigabytes_is_not_read(copy, published, file):
    path = published(label_file="labels.csv") if file == "labels.csv" else copy / file
    with open(path, "wb") as stream:
        stream.truncate(1 << 36)  # no byte of it is on the disk
    refused("tiny" if file == "labels.csv" else copy, f"{file} has 68719 MB, and the zoo reads {file}", verify=True)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "golden.safetensors"])
def test_a_link_out_of_the_folder_is_refused(copy, tmp_path, file):
    (copy / file).rename(tmp_path / file)
    (copy / file).symlink_to(tmp_path / file)
    refused(copy, f"{file} is a link out of its folder", str(tmp_path / file), verify=True)


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
    refused(snapshot, "config.json is a link out of its folder")


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
    refused(snapshot, "config.json is a link out of its folder")


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
    refused(copy, "holds no config.json", kind=FileNotFoundError)
