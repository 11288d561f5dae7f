"""Signals are answered at once, by real processes whose main thread is busy outside of Python."""

import os
import signal
import subprocess
import sys

import pytest

from train.signals import Interruption, Signals

BUSY = """
import hashlib, sys
from train.signals import Signals

with Signals() as signals:
    signals.progress = {progress}
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)  # minutes without a line of Python, as a compilation
"""


def busy(progress):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(progress=progress)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_signal_before_the_first_step_ends_the_process_at_once():
    process = busy(progress=False)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert error == "audax-train: SIGINT: ended before the first step.\n"


def test_a_signal_later_says_what_it_waits_for_and_a_second_one_ends_it():
    process = busy(progress=True)
    process.send_signal(signal.SIGTERM)
    sentence = "SIGTERM: a checkpoint is written after the step under way; a second signal ends the run without it."
    assert process.stderr.readline() == f"audax-train: {sentence}\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert error == "audax-train: SIGINT: ended without a checkpoint of the last steps.\n"


def test_a_signal_cuts_off_what_need_not_be_finished():
    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    with Signals() as signals:
        signals.progress = True
        signals.check()
        assert signals.agree(1) == 0
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interruption):
            signals.check()
        assert signals.agree(1) == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)) == before
