"""Helpers of the tests of commands: a small model's folder, recordings, and processes."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from tiny import ROOT, seed_model
from tiny import TINY as CLASSIFIER

import zoo

TINY = CLASSIFIER.replace(labels=("low", "middle", "high"), metrics=())


def save_seeded(entry, folder):
    """The folder of a model with seeded weights."""
    zoo.save(folder, *seed_model(entry), entry)
    return str(folder)


@functools.cache
def save_once(root):
    """The folder of a model that hears 1 s at 16 kHz, one for all the files of tests that a process runs."""
    return save_seeded(TINY, root / "tiny_shell")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_once(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return zoo.load(save_once(tmp_path_factory.getbasetemp()))


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(name, seconds, seed=0, sample_rate=16000):
    """Writes noise that fades, so that windows differ, and gives the file's name."""
    samples = round(seconds * sample_rate)
    wave = np.random.default_rng(seed).uniform(-0.5, 0.5, samples) * np.linspace(1, 0.01, samples)
    soundfile.write(name, wave, sample_rate)
    return name


def run(*arguments, folder):
    """A process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def weighted_mean(file, clip, function):
    """The mean of `function` over the file's windows by their length, in float64."""
    parts = list(zoo.windows(file, clip.sample_rate, clip.entry.window))
    return sum(np.asarray(function(wave), np.float64) * count for wave, count in parts) / sum(
        count for _, count in parts
    )
