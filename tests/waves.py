"""Waves, and the error of one array relative to another, as the tests of features take them."""

import numpy as np


def error(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def tone(hz, sample_rate, seconds):
    return np.sin(2 * np.pi * hz * np.arange(round(sample_rate * seconds)) / sample_rate).astype(np.float32)
