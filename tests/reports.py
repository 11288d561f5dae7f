"""A model to verify, and the rows that `audax-zoo verify` prints."""

import jax
import pytest

import zoo

WIDTH = 64  # large enough for weights of more than 100 kB
OWN = zoo.Entry(
    name="own",
    frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 80},
    network={"type": "ResNet", "depths": (1,), "widths": (WIDTH,)},
    classes=3,
    task="multilabel",
    window=0.5,
    labels=("a", "b", "c"),
    license="BSD-3-Clause",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "own"
    zoo.save(path, *zoo.create(OWN, key=jax.random.key(0)), OWN)
    return path


def table(out):
    """The cells of each row, by the name in its first."""
    head, *rows = out.splitlines()
    assert head.split() == ["name", "repo", "checked", "result"]
    starts = [head.index(name) for name in head.split()]
    cells = [[row[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)] for row in rows]
    return {name: rest for name, *rest in cells}
