"""Helpers of the tests of commands: a small model's folder, recordings, and processes."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from processes import ROOT
from tiny import TINY as CLASSIFIER
from tiny import fill_entry

import zoo

TINY = CLASSIFIER.replace(labels=("low", "middle", "high"), metrics=())


def save_seeded(entry, folder):
    """The folder of a model with seeded weights."""

    def draw(generator, name, shape):
        return np.full(shape, 100.0) if name.endswith("running_var") else generator.normal(0.0, 0.3, shape)

    zoo.save(folder, *fill_entry(entry, draw), entry)
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
