"""What `zoo.load` says of a path that is no model's folder, and of names that may be a folder's or a repo's."""

import pathlib
import shutil

import jax
import numpy as np
import pytest
import soundfile

import zoo
from zoo.__main__ import main


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A working directory with a run in `runs/best`, whose model is in `runs/best/model`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pathlib.Path(zoo.__file__).parent / "weights" / "resnet_fsdd", "runs/best/model")
    return tmp_path


def refused(name, kind, *parts):
    with pytest.raises(kind) as raised:
        zoo.load(name)
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".")
    for part in parts:
        assert part in message
    return message


@pytest.mark.parametrize(
    "file, content, part",
    [
        ("whole.pt", b"PK\x03\x04" + bytes(30), "is a pickle or an archive, as torch writes: zoo.arrays("),
        ("weights.bin", b"\x80\x02}q\x00.", "is a pickle"),
        ("weights.safetensors", b"\x02\0\0\0\0\0\0\0{}", "is one file of a model: the zoo loads the folder"),
        ("checkpoint_3", b"\x82\xa6target", "zoo.convert('checkpoint_3', folder)"),
        ("empty", b"", "is a file, and no model"),
        ("notes.txt", b"a text", "is a file, and no model"),
    ],
)
def test_a_file_is_told_what_it_is_and_what_to_do(workdir, file, content, part):
    (workdir / file).write_bytes(content)
    assert "did you mean" not in refused(file, ValueError, f"{file} ", part)
    refused(workdir / file, ValueError, part.replace("'checkpoint_3'", repr(str(workdir / file))))


@pytest.mark.parametrize("size", [0x280, 0x380, 0x480, 0x580])
def test_safetensors_that_begin_as_a_pickle_does_are_read(workdir, size):
    array = np.arange(3, dtype=np.float32)
    header = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'.ljust(size)
    for name in ("model.safetensors", "checkpoint_3"):  # by its content, whatever it is called
        (workdir / name).write_bytes(size.to_bytes(8, "little") + header + array.tobytes())
        np.testing.assert_array_equal(zoo.arrays(name)["a"], array)
        refused(name, ValueError, "is one file of a model" if "." in name else "is ")


def test_a_recording_is_told_how_to_be_read(workdir):
    soundfile.write("dog.wav", np.zeros(80), 8000)
    refused("dog.wav", ValueError, "zoo.read(path, sample_rate) reads a recording")


def test_a_file_of_a_models_folder_names_the_folder(workdir):
    for file in ("config.json", "model.safetensors"):
        refused(f"runs/best/model/{file}", ValueError, "load its folder, runs/best/model")


def test_a_link_that_leads_nowhere_is_told(workdir):
    (workdir / "link").symlink_to("nowhere")
    refused("link", ValueError, "link is a broken link")


def test_a_folder_that_is_not_there_is_told_before_the_hub_is_asked(workdir):
    for name in ("runs/bets", "runs/bets/", "./runs/bets"):
        message = refused(name, FileNotFoundError, f"{name} is not a folder: did you mean", "runs/best?")
        assert "cache" not in message
    refused("runs/bets", FileNotFoundError, "The repo runs/bets of the Hub loads with revision='main'")
    with pytest.raises(ConnectionError, match=r"neither in the Hub's cache.* There is no folder runs/bets in "):
        zoo.load("runs/bets", revision="main")


def test_a_name_that_may_be_a_repos_is_told_to_be_no_folder_either(workdir):
    refused("owner/name", ConnectionError, "neither in the Hub's cache", f"no folder owner/name in {workdir} either.")


def test_a_run_is_told_where_its_models_are(workdir):
    refused("runs/best", FileNotFoundError, "runs/best holds no config.json", "load runs/best/model.")


def test_every_door_says_the_same(workdir, capsys):
    (workdir / "whole.pt").write_bytes(b"PK\x03\x04")
    soundfile.write("dog.wav", np.zeros(80), 8000)
    commands = (
        "info whole.pt",
        "tag dog.wav --model whole.pt",
        "embed dog.wav -o x.npz --model whole.pt",
        "verify whole.pt",
        "publish whole.pt me/whole",
    )
    for command in commands:
        assert main(command.split()) == 2
        assert "whole.pt is a pickle or an archive" in capsys.readouterr().err, command


def test_a_name_that_is_near_no_model_is_not_told_another(workdir):
    (workdir / "gen1").mkdir()
    refused("gen_1", ValueError, "no model 'gen_1': did you mean 'gen1'?")
    assert "did you mean" not in refused(
        "xyzzy", ValueError, "no model 'xyzzy'. There is no folder of that name either."
    )


@pytest.mark.parametrize("head", [b"\x89HDF\r\n\x1a\n", b"\x89PNG\r\n\x1a\n"])
def test_a_file_of_another_kind_is_no_checkpoint_of_audax(workdir, head):
    (workdir / "file").write_bytes(head)
    refused("file", ValueError, "file is a file, and no model")


def test_a_model_loads_under_a_mesh(workdir):
    with jax.set_mesh(jax.make_mesh((2,), ("data",))):
        clip = zoo.load("resnet_fsdd")
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 8000).astype(np.float32)
    np.testing.assert_array_equal(clip(wave), zoo.load("resnet_fsdd")(wave))
