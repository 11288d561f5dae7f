"""`audax-zoo embed` into a folder that is killed, gets a signal or finds the disk full."""

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet
import pytest
from corpora import ROOT, embed, record, rows, same
from tiny_resnet import save

from zoo import _corpus
from zoo._corpus import Shard


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model."""
    return save(tmp_path_factory.mktemp("models"))


SCRIPT = """
import sys
from zoo import _corpus
from zoo.__main__ import main
_corpus.SECONDS = 0.02
sys.exit(main(sys.argv[1:]))
"""


def test_killed_again_and_again_it_ends_with_the_rows_of_one_run(workdir, model):
    record("data", 20)
    for index in range(20, 900):
        pathlib.Path(f"data/{index:03}.wav").symlink_to(f"{index % 20:03}.wav")
    for parts in (1, 4):
        process = start("-o", "out", "--model", model)
        while process.poll() is None and len(list(workdir.glob("out/part*"))) < parts:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    killed = {row[0] for row in rows(workdir / "out")}
    assert 0 < len(killed) < 900
    (workdir / "out" / ".part-000099.1.parquet").write_text("half")  # as a killed process leaves it
    assert embed("data", "-o", "out", model=model) == 0
    assert embed("data", "-o", "whole", model=model) == 0
    same(rows(workdir / "out"), rows(workdir / "whole"))
    assert not list(workdir.glob("out/.part*"))


def test_a_full_disk_is_a_sentence_and_costs_nothing(capsys, workdir, model):
    names = record("data", 300, (0.1, 0.2))
    assert embed(*names[:5], "-o", "out", model=model) == 0
    capsys.readouterr()
    before, limits = rows(workdir / "out"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # a write beyond fails, as on a full disk
    try:
        code = embed("data", "-o", "out", model=model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    error = capsys.readouterr().err
    assert "audax-zoo: out cannot be written: File too large. It holds whole rows of 5 recordings: make room" in error
    assert rows(workdir / "out") == before and not list(workdir.glob("out/.part*"))
    assert embed("data", "-o", "out", model=model) == 0
    assert [row[0] for row in rows(workdir / "out")] == names


@pytest.mark.parametrize("output", ["out.npz", "out.parquet"])
def test_a_full_disk_is_a_sentence_for_one_file_too(capsys, workdir, model, output):
    names, limits = record("data", 200, (0.1, 0.2)), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        code = embed(*names, "-o", output, model=model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and os.listdir(workdir) == ["data"]
    assert f"audax-zoo: {output} cannot be written: File too large. Nothing is kept" in capsys.readouterr().err


def test_parts_grow_with_the_time(workdir, monkeypatch):
    """Parts are closed after two seconds at first, and after a fiftieth of the time later on."""
    seconds = iter(np.arange(0.0, 10000.0, 1.0))
    monkeypatch.setattr(_corpus.time, "monotonic", lambda: next(seconds))
    with _corpus.opened(workdir / "out", {}, Shard()) as corpus:
        value = {"starts": np.zeros(1), "ends": np.ones(1), "embeddings": np.zeros((1, 2), np.float32)}
        corpus.write(_corpus.Part(f"{index}.wav", value) for index in range(2000))
    sizes = [pyarrow.parquet.read_metadata(part).num_rows for part in sorted((workdir / "out").glob("part*"))]
    assert sum(sizes) == 2000 and sizes[0] <= 2 and 30 <= max(sizes) <= 40


def links(count):
    """One recording under many names."""
    record("data", 1)
    for index in range(1, count):
        pathlib.Path(f"data/{index:03}.wav").symlink_to("000.wav")


def start(*arguments):
    """A process of the command, which closes parts all the time."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "embed", "data", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="open files are read from Linux's /proc")
def test_an_interruption_ends_a_file_with_the_rows_so_far(workdir, model):
    links(5000)
    process = start("-o", "out.npz", "--model", model)
    while not waiting(process, workdir):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and "audax-zoo: interrupted\n" in error
    with np.load("out.npz") as columns:
        assert 0 < len(columns["files"]) == len(columns["embeddings"]) < 5000
        assert f"out.npz has the first {len(columns['files'])} recordings: write a folder, -o out/, to go on" in error


def waiting(process, folder):
    """Bytes in the process's open files of the folder that have no name, and become arrays of the .npz."""
    size = 0
    for descriptor in pathlib.Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(descriptor)
            if target.startswith(str(folder)) and target.endswith("(deleted)"):
                size += descriptor.stat().st_size
    return size


def test_a_signal_closes_the_part(workdir, model):
    links(5000)
    process = start("-o", "out", "--model", model)
    while not list(workdir.glob("out/part*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate()
    assert error == "audax-zoo: interrupted\n" and process.returncode == 128 + signal.SIGTERM
    count = len(rows(workdir / "out"))
    assert 0 < count < 5000 and output == f"out: {count} recordings, {count} of them new\n"
