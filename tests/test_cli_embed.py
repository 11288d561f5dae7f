"""`audax-zoo embed`: embeddings of recordings and of their frames, in files of NumPy and Parquet."""

import os
import pathlib

import numpy as np
import pyarrow.parquet
import pytest
import shell
import soundfile
from shell import record, run, weighted_mean

import zoo
from zoo.__main__ import main

clip, model, workdir = shell.clip, shell.model, shell.workdir


def test_embed_of_one_window_is_the_clips_embedding(capsys, workdir, model, clip):
    file = record("a.wav", 1.0)
    assert main(["embed", file, "--model", model, "-o", "out.npz"]) == 0
    with np.load("out.npz") as columns:
        assert columns["files"].tolist() == ["a.wav"]
        assert columns["embeddings"].dtype == np.float32
        np.testing.assert_allclose(columns["embeddings"], [clip.embed(zoo.read(file, 16000))], rtol=1e-6)
    assert sorted(path.name for path in workdir.iterdir()) == ["a.wav", "out.npz"]


def test_embed_averages_windows_by_length(capsys, workdir, model, clip):
    file = record("a.wav", 2.25)
    assert main(["embed", file, "--model", model, "-o", "out.npz"]) == 0
    with np.load("out.npz") as columns:
        np.testing.assert_allclose(columns["embeddings"][0], weighted_mean(file, clip, clip.embed), atol=1e-5)


def test_embed_searches_folders_and_parquet_holds_what_npz_does(capsys, workdir, model):
    (workdir / "sounds" / "deep").mkdir(parents=True)
    record("sounds/b.FLAC", 1.0, seed=1)
    record("sounds/a.wav", 1.5, seed=2)
    record("sounds/deep/c.ogg", 1.0, seed=3)
    (workdir / "sounds" / "notes.txt").write_text("no sound")
    single = record("z.wav", 1.0, seed=4)
    for output in ("out.npz", "out.parquet"):
        assert main(["embed", single, "sounds", "--model", model, "-o", output]) == 0
    table = pyarrow.parquet.read_table("out.parquet").to_pydict()
    with np.load("out.npz") as columns:
        assert columns["files"].tolist() == ["z.wav", "sounds/a.wav", "sounds/b.FLAC", "sounds/deep/c.ogg"]
        assert table["files"] == columns["files"].tolist()
        np.testing.assert_array_equal(np.asarray(table["embeddings"], np.float32), columns["embeddings"])
        assert len(np.unique(columns["embeddings"], axis=0)) == 4


def test_embed_of_a_folder_without_sounds_exits_2(capsys, workdir, model):
    (workdir / "sounds").mkdir()
    assert main(["embed", "sounds", "--model", model, "-o", "out.npz"]) == 2
    assert "sounds holds no sound files" in capsys.readouterr().err


def test_embed_of_frames_keeps_a_file_shorter_than_a_frame_of_the_network(capsys, workdir, model):
    files = [record("a.wav", 0.05), record("b.wav", 1.0)]
    assert main(["embed", *files, "--model", model, "--frames", "-o", "out.npz"]) == 0
    columns = np.load("out.npz")
    assert list(columns["files"]).count("a.wav") == 1
    assert len(columns["times"]) == len(columns["embeddings"]) == len(columns["files"])


def test_a_file_without_a_header_does_not_cost_the_others(capsys, workdir, model):
    pathlib.Path("noise.raw").write_bytes(bytes(range(256)) * 100)
    files = ["noise.raw", record("a.wav", 1.0)]
    assert main(["embed", *files, "--model", model, "-o", "out.npz"]) == 1
    assert list(np.load("out.npz")["files"]) == ["a.wav"]
    assert "noise.raw cannot be read as sound" in capsys.readouterr().err


def test_a_folder_is_searched_for_files_with_a_header(capsys, workdir, model):
    pathlib.Path("noise.raw").write_bytes(bytes(1000))
    record("a.wav", 1.0)
    assert main(["embed", ".", "--model", model, "-o", "out.npz"]) == 0
    assert list(np.load("out.npz")["files"]) == ["a.wav"]


@pytest.mark.parametrize("output", ["out.npz", "out.parquet"])
def test_embed_of_frames_has_times_within_the_file(capsys, workdir, model, clip, output):
    files = [record("a.wav", 2.5), record("b.wav", 1.0, seed=1)]
    assert main(["embed", *files, "--model", model, "--frames", "-o", output]) == 0
    if output.endswith("npz"):
        with np.load(output) as columns:
            columns = {name: columns[name] for name in columns.files}
    else:
        columns = {name: np.asarray(values) for name, values in pyarrow.parquet.read_table(output).to_pydict().items()}
    grid = 0.155 + 0.32 * np.arange(8)  # 32 hops of 0.01 s
    np.testing.assert_allclose(columns["times"], np.concatenate([grid, grid[:3]]), rtol=1e-5)
    assert columns["files"].tolist() == ["a.wav"] * 8 + ["b.wav"] * 3
    np.testing.assert_allclose(columns["embeddings"][8:], clip.frames(zoo.read("b.wav", 16000)), rtol=1e-5, atol=1e-6)
    start = 3 * 5120  # the second window begins with the fourth frame
    np.testing.assert_allclose(
        columns["embeddings"][3:6], clip.frames(zoo.read("a.wav", 16000)[start:][:16000]), rtol=1e-5, atol=1e-6
    )


def test_embed_writes_what_it_could_read(capsys, workdir, model):
    files = [record("a.wav", 1.0), "none.wav"]
    assert main(["embed", *files, "--model", model, "-o", "out.npz"]) == 1
    with np.load("out.npz") as columns:
        assert columns["files"].tolist() == ["a.wav"]
    assert "1 of 2 files could not be read" in capsys.readouterr().err


def test_embed_of_nothing_readable_leaves_the_old_output(capsys, workdir, model):
    pathlib.Path("out.npz").write_bytes(b"old")
    assert main(["embed", "none.wav", "--model", model, "-o", "out.npz"]) == 2
    assert "none.wav is not a file" in capsys.readouterr().err
    assert pathlib.Path("out.npz").read_bytes() == b"old"


@pytest.mark.parametrize(
    "output, fault",
    [
        ("none/out.npz", "none/out.npz cannot be written"),
        ("out.csv", r"embed writes .npz or .parquet, or the parts of a corpus into a folder, got 'out.csv'"),
        ("folder.npz", "folder.npz"),
    ],
)
def test_an_output_that_cannot_be_written_exits_2_before_any_work(capsys, workdir, output, fault):
    (workdir / "folder.npz").mkdir()
    assert main(["embed", "a.wav", "--model", "none", "-o", output]) == 2
    assert fault in capsys.readouterr().err
    assert [path.name for path in workdir.iterdir()] == ["folder.npz"]


HOUR = """
import sys
from zoo.__main__ import main
code = main(["embed", "hour.flac", "--model", sys.argv[1], "-o", "out.npz"])
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")))
sys.exit(code)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
def test_an_hour_is_embedded_in_little_memory(model, tmp_path):
    minute = 0.1 * np.sin(2 * np.pi * 300 * np.arange(60 * 16000) / 16000)
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 16000, 1) as file:
        for index in range(60):
            file.write(minute * (index % 10 == 0))
    process = run("-c", HOUR, model, folder=tmp_path)
    assert process.returncode == 0, process.stderr
    assert float(process.stdout.splitlines()[-1]) < 600  # the hour itself has 230
    with np.load(tmp_path / "out.npz") as columns:
        assert columns["embeddings"].shape == (1, 16)
        assert np.isfinite(columns["embeddings"]).all()
