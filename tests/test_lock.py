"""One process at a time in a folder, however the one before has ended."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from train import records
from zoo import _lock as lock

HOLD = "import pathlib, sys, time\nfrom zoo._lock import locked\nwith locked(pathlib.Path(sys.argv[1])):\n    "


def hold(folder):
    """A process that is in the folder until it is killed."""
    code = HOLD + "print('in', flush=True)\n    time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    process = hold(tmp_path)
    try:
        with pytest.raises(BlockingIOError, match="in use by another process: wait until it ends, or choose"):
            lock.locked(tmp_path).__enter__()
    finally:
        process.kill()
        process.communicate()
    with lock.locked(tmp_path), pytest.raises(BlockingIOError), lock.locked(tmp_path):
        pass
    with lock.locked(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_sentence(number, tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock.locked(tmp_path):
        pass
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot be locked" in error and "start no other process in it" in error


def test_data_is_prepared_by_one_process(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 8000)
    (tmp_path / "manifest.csv").write_text("files,labels\na.wav,a\n")
    (tmp_path / "data").mkdir()
    with lock.locked(tmp_path / "data"), pytest.raises(BlockingIOError, match="data is in use by another process"):
        records.prepare(tmp_path / "manifest.csv", tmp_path / "data", sample_rate=8000, processes=1)
    assert os.listdir(tmp_path / "data") == [lock.NAME]
