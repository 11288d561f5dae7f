"""The recordings that `audax-zoo` finds: folders, links, missing files, and names in any script."""

import io
import json
import os
import pathlib
import sys

import numpy as np
import pyarrow.parquet
import pytest
import shell
import soundfile
from shell import record

import zoo
from zoo import _batches, hear
from zoo.__main__ import main
from zoo._search import sounds

model, workdir = shell.model, shell.workdir


@pytest.mark.parametrize("seconds", [0.1, 0.7, 1.0, 1.05, 1.6, 2.1])
def test_the_shell_and_hear_give_one_answer(capsys, workdir, model, seconds):
    file = record("a.wav", seconds)
    assert main(["embed", file, "--model", model, "-o", "out.npz"]) == 0
    scene = hear.get_scene_embeddings(zoo.read(file, 16000)[None], hear.load_model(model))
    np.testing.assert_allclose(np.load("out.npz")["embeddings"], scene, rtol=1e-4, atol=1e-5)


def test_a_bug_is_not_reported_as_an_unreadable_file(workdir, model, monkeypatch):
    for error in (TypeError("a bug"), ValueError("a bug"), KeyError("a bug")):
        monkeypatch.setattr(_batches, "_program", lambda *_, error=error: (_ for _ in ()).throw(error))
        if isinstance(error, ValueError):
            assert main(["embed", record("a.wav", 1.0), "--model", model, "-o", "out.npz"]) == 2
        else:
            with pytest.raises(type(error), match="a bug"):
                main(["embed", record("a.wav", 1.0), "--model", model, "-o", "out.npz"])


def test_what_does_not_exist_is_told_at_once(capsys, workdir):
    for command in (["tag"], ["embed", "-o", "out.npz"]):
        assert main([*command, "none.wav", "no/folder"]) == 2  # before the model is fetched
        assert capsys.readouterr().err == "audax-zoo: none.wav is not a file. no/folder is not a file.\n"


def test_a_missing_file_among_others_is_told_first(capsys, workdir, model, monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda name: pytest.fail(capsys.readouterr().err))
    with pytest.raises(pytest.fail.Exception, match=r"none\.wav is not a file"):
        main(["embed", record("a.wav", 1.0), "none.wav", "--model", model, "-o", "out.npz"])


def test_a_search_follows_links_but_not_in_circles_and_says_what_it_leaves_out(capsys, workdir):
    for folder in ("data/deep", "elsewhere/below"):
        (workdir / folder).mkdir(parents=True)
    names = ["a.wav", "b.wave", "c.aifc", "d.SND", "e.sph", "f.bwf", "g.iff", "h.mp2", "deep/i.Opus"]
    names += ["j.m4a", "k.m4a", "l.WebM"]  # tests/test_ffmpeg.py has those who lack the extra
    for name in (*names, "m.txt", "n"):
        (workdir / "data" / name).touch()
    (workdir / "elsewhere" / "below" / "z.wav").touch()
    (workdir / "data" / "2023").symlink_to("../elsewhere")
    (workdir / "data" / "again").symlink_to("../elsewhere")  # a folder is searched once
    (workdir / "data" / "a link to deep").symlink_to("deep")
    (workdir / "elsewhere" / "back").symlink_to("../data")
    (workdir / "data" / "self").symlink_to("self")
    assert sounds(["data"]) == sorted(f"data/{name}" for name in (*names, "2023/below/z.wav"))
    error = capsys.readouterr().err
    assert error == "audax-zoo: data holds other files, which are left out: 2 without a suffix, 1 .txt.\n"


def test_a_folder_with_pipes_and_links_to_themselves_is_embedded(capsys, workdir, model):
    (workdir / "data").mkdir()
    soundfile.write(workdir / "data" / "a.wav", np.zeros(16000), 16000)
    (workdir / "data" / "self.wav").symlink_to("self.wav")
    os.mkfifo(workdir / "data" / "pipe.wav")
    assert main(["embed", "data", "--model", model, "-o", "out.npz"]) == 1
    error = capsys.readouterr().err
    assert "data/pipe.wav is no regular file, and is left out" in error
    assert "data/self.wav cannot be opened: Too many levels of symbolic links" in error
    assert np.load("out.npz")["files"].tolist() == ["data/a.wav"]


def test_an_empty_folder_beside_others_costs_nothing(capsys, workdir, model):
    for name in ("data", "empty"):
        (workdir / name).mkdir()
    soundfile.write(workdir / "data" / "a.wav", np.zeros(16000), 16000)
    assert main(["tag", "empty", "data", "--model", model, "-k", "1"]) == 0
    assert "data/a.wav" in capsys.readouterr().out


def test_a_folder_of_sounds_alone_needs_no_word(capsys, workdir):
    (workdir / "a.wav").touch()
    assert sounds(["."]) == ["a.wav"]
    assert capsys.readouterr().err == ""


NAMES = [b"caf\xe9.wav", "\u9ce5.wav".encode(), b"$a$ [b].wav"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have names in Unicode")


@linux
def test_any_name_is_tagged_embedded_and_plotted(capsys, workdir, model):
    names, content = [os.fsdecode(name) for name in NAMES], pathlib.Path(record("a.wav", 1.0)).read_bytes()
    pathlib.Path("a.wav").unlink()
    for name in names:
        pathlib.Path(name).write_bytes(content)
    assert main(["tag", ".", "--model", model, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == sorted(names)
    for output in ("out.npz", "out.parquet"):
        assert main(["embed", *names, "--model", model, "-o", output]) == 0
    assert np.load("out.npz")["files"].tolist() == names
    table = pyarrow.parquet.read_table("out.parquet").to_pydict()
    assert table["files"] == ["caf\\udce9.wav", *names[1:]]  # its text is UTF-8
    for name in names:
        assert main(["tag", name, "--model", model, "--plot", "out.png"]) == 0


@linux
@pytest.mark.parametrize("encoding, shown", [
    ("utf-8", [rb"caf\udce9.wav", *NAMES[1:]]),
    ("cp1252", [rb"caf\udce9.wav", rb"\u9ce5.wav", NAMES[2]]),
    ("ascii", [rb"caf\udce9.wav", rb"\u9ce5.wav", NAMES[2]]),
])  # fmt: skip
def test_an_output_that_cannot_hold_a_name_loses_no_result(workdir, model, monkeypatch, encoding, shown):
    record("a.wav", 1.0)
    for name in NAMES:
        pathlib.Path(os.fsdecode(name)).write_bytes(pathlib.Path("a.wav").read_bytes())
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding, newline="\n"))
    assert main(["tag", *map(os.fsdecode, NAMES), "--model", model, "-k", "1"]) == 0
    assert output.getvalue().splitlines()[::2] == shown


def test_a_warning_is_a_line(capsys, workdir, model):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write("a.wav", np.stack([wave, -wave], axis=1), 16000)
    assert main(["tag", "a.wav", "--model", model]) == 0
    line = (
        "audax-zoo: a.wav has channels in opposite phase, whose mean is silent: read one channel, or turn one around.\n"
    )
    assert capsys.readouterr().err == line
