"""A small model's folder to break, and the sentence that loading it raises."""

import functools
import json
import pathlib
import shutil

import jax
import pytest

import zoo
import zoo._load

TINY = zoo.Entry(
    name="tiny",
    frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 80},
    network={"type": "ConvNeXt", "depths": (1,), "widths": (4,)},
    classes=3,
    task="multiclass",
    window=0.5,
    labels=("a", "b", "c"),
)


@functools.cache
def save_once(root):
    """The folder of the tiny model, one for all the files of tests that a process runs."""
    zoo.save(root / "tiny_hostile", *zoo.create(TINY, key=jax.random.key(0)), TINY)
    return root / "tiny_hostile"


@pytest.fixture
def copy(tmp_path_factory, tmp_path):
    """A copy of it, to break."""
    return pathlib.Path(shutil.copytree(save_once(tmp_path_factory.getbasetemp()), tmp_path / "copy"))


def expect_refusal(folder, *parts, kind=ValueError, **options):
    """That loading raises one sentence with these parts."""
    with pytest.raises(kind) as raised:
        zoo.load(folder, **options)
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 1500
    for part in parts:
        assert part in message


def rewrite(folder, file="config.json", **fields):
    """Changes fields of a JSON file."""
    path = folder / file
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(config | fields))
