"""A small model of two blocks, and its outputs for a wave window by window."""

import functools

import equinox as eqx
import jax
import numpy as np
import soundfile
import tiny_resnet
from tiny_resnet import RATE

import zoo

ENTRY = tiny_resnet.ENTRY.replace(network={"type": "ResNet", "depths": (1, 1), "widths": (8, 16)})
SIZE = 4000  # samples of a window


@functools.cache
def load():
    """The model in inference mode, once a process."""
    model, state = zoo.create(ENTRY, key=jax.random.key(0))
    return zoo.Pretrained(eqx.nn.inference_mode(model), state, ENTRY)


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def write(path, wave, rate=RATE):
    soundfile.write(path, wave, rate, subtype="FLOAT")
    return path


def difference(ours, theirs):
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max())


def by_hand(clip, wave, function="embed"):
    """The mean over the padded windows of a wave, one call each, weighted by their samples."""
    starts = range(0, max(len(wave) - SIZE // 10, 0) + 1, SIZE)
    parts = [wave[start : start + SIZE] for start in starts]
    values = [np.asarray(getattr(clip, function)(np.pad(part, (0, SIZE - len(part))))) for part in parts]
    return np.average(values, axis=0, weights=[len(part) for part in parts])
