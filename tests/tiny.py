"""A small pretrained model with seeded weights, and helpers of the tests of the zoo."""

import functools
import json
import pathlib
import shutil

import numpy as np
import pytest

import zoo
from zoo._create import skeleton
from zoo._leaves import fill, named_leaves

SAMPLES = 16000
TINY = zoo.Entry(
    name="tiny",
    frontend={"type": "LogMel", "sample_rate": 16000, "bins": 32, "n_fft": 512, "hop_length": 160},
    network={
        "type": "ConvNeXt",
        "depths": (1, 1, 1, 1),
        "widths": (8, 8, 16, 16),
        "input_norm": 32,
        "pool": "mean_max",
    },
    classes=3,
    task="multiclass",
    window=1.0,
    labels=("a", "b", "c"),
    metrics=({"dataset": "made up", "metric": "accuracy", "value": 0.5, "source": "none"},),
)


def fill_entry(entry, draw, seed=0):
    """The entry's model and state; the values of an array are draw(generator, its name, its shape)."""
    model, state = skeleton(entry)
    shapes = {name: leaf.shape for name, leaf in named_leaves(model, state).items()}
    generator = np.random.default_rng(seed)
    return fill(model, state, lambda name: draw(generator, name, shapes[name]))


def seed_model(entry, seed=0):
    """The entry's model and state with seeded weights and statistics."""

    def draw(generator, name, shape):
        if name.endswith("running_var"):
            return generator.uniform(100.0, 400.0, shape)
        if name.endswith("running_mean"):
            return generator.uniform(-30.0, -10.0, shape)
        return generator.normal(0.0, 0.3, shape)

    return fill_entry(entry, draw, seed)


def noise(samples=SAMPLES, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def difference(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def assert_equal_arrays(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        assert leaf.dtype == theirs[name].dtype
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@functools.cache
def save_once(root):
    """The folder of the tiny model, one for all the files of tests that a process runs."""
    path = root / "tiny"
    zoo.save(path, *seed_model(TINY), TINY)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_once(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return zoo.load(save_once(tmp_path_factory.getbasetemp()))


@pytest.fixture
def copy(tmp_path_factory, tmp_path):
    """A copy of the tiny model's folder, to break."""
    return pathlib.Path(shutil.copytree(save_once(tmp_path_factory.getbasetemp()), tmp_path / "copy"))


def rewrite(path, **fields):
    """Changes fields of a config.json; None takes one away."""
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
