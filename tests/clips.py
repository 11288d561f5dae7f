"""A prepared dataset of random clips, and batches that are the same."""

import csv
import json

import numpy as np
import soundfile

from train.records import prepare

LENGTHS = [800, 1000, 350, 803, 4000, 1, 1600, 799, 801, 2400, 5000, 1200, 77]  # some below, at and above 800
LABELS = ["a", "b", "a;c", "", "a", "c", "b", "a", "a", "a", "b;a", "a", "a"]


def make(folder, lengths, labels):
    """A prepared dataset and the int16 clips that are in it."""
    clips = [
        np.random.default_rng(number).integers(-20000, 20000, length, dtype=np.int16)
        for number, length in enumerate(lengths)
    ]
    for number, clip in enumerate(clips):
        soundfile.write(folder / f"{number}.wav", clip, 8000)
    rows = [(f"{number}.wav", label, number % 3) for number, label in enumerate(labels)]
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([("files", "labels", "fold"), *rows])
    prepare(folder / "manifest.csv", folder / "out", sample_rate=8000, shard_size=5, processes=1)
    return folder / "out", clips


def make_six(folder):
    """A dataset of six clips that a test may break."""
    return make(folder, [900] * 6, ["a"] * 6)[0]


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for name, leaf in one._asdict().items():
            np.testing.assert_array_equal(leaf, getattr(other, name), err_msg=name)
            assert leaf.dtype == getattr(other, name).dtype


def flip(folder, row, place):
    """Changes bytes of a record, `place` of the way into it."""
    number, inside = divmod(row, 5)
    shard = folder / f"shard-0000{number}-of-00002.tfrecord"
    example = json.loads(shard.with_suffix(".json").read_text())["examples"][inside]
    content = bytearray(shard.read_bytes())
    start = example["offset"] + int(place * example["size"])
    for byte in range(start, start + 4):
        content[byte] ^= 0xFF
    shard.write_bytes(content)
