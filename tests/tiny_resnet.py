"""A classifier of three classes in few channels at 8 kHz, and where its tests store it."""

import jax

import zoo

RATE = 8000
ENTRY = zoo.Entry(
    name="tiny",
    frontend={"type": "LogMel", "sample_rate": RATE, "bins": 16, "n_fft": 256, "hop_length": 80},
    network={"type": "ResNet", "depths": (1,), "widths": (8,)},
    classes=3,
    labels=("a", "b", "c"),
    task="multiclass",
    window=0.5,
)


def save(folder):
    """Saves a model into the folder `tiny` and gives its path."""
    zoo.save(folder / "tiny", *zoo.create(ENTRY, key=jax.random.key(0)), ENTRY)
    return str(folder / "tiny")
