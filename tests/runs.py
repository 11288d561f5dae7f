"""A tiny recipe, the recordings that it trains on, and what a run leaves."""

import csv
import dataclasses
import json

import numpy as np
import soundfile

from train import records

RECIPE = '''
"""Three kinds of sound, and next to no network."""

from train.objectives import Augment, Supervised
from train.recipe import Data, Model, Optimizer, Recipe, Run

recipe = Recipe(
    name="tiny",
    model=Model(
        frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 160, "floor": 1e-5},
        network={"type": "ResNet", "depths": (1,), "widths": (8,)},
        dropout=0.1,
    ),
    data=Data(seconds=0.25, batch=16, hold_out="fold", held_out=("4",), threads=2),
    optimizer=Optimizer(learning_rate=0.3, ema=0.8),
    objective=Supervised(mixup=0.2, augment=Augment(frames=3, bins=3)),
    run=Run(steps=90, evaluate=8.0, checkpoint=8.0, log=1),
)
'''
LABELS = ("buzz", "hiss", "hum")


def fill(folder):
    """Fills a folder with a manifest of 48 files of three kinds and four folds, prepared, and the recipe."""
    rng = np.random.default_rng(0)
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["files", "labels", "fold", "kind"])
        for index in range(48):
            label = LABELS[index % 3]
            seconds = np.arange(rng.integers(1500, 4500)) / 8000
            noise, pitch = rng.normal(size=seconds.shape), rng.uniform(100, 300)
            hum = np.sin(2 * np.pi * pitch * seconds)
            wave = {"hiss": 0.1 * noise, "hum": 0.3 * hum, "buzz": 0.2 * np.sign(np.sin(12 * np.pi * pitch * seconds))}
            soundfile.write(folder / f"{index}.wav", wave[label] + 0.001 * noise, 8000)
            writer.writerow([f"{index}.wav", label, index // 12 + 1, label])
    records.prepare(folder / "manifest.csv", folder / "data", sample_rate=8000, shard_size=20, processes=1)
    (folder / "tiny.py").write_text(RECIPE)
    return folder


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


def lines(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def changed(recipe, **parts):
    """The recipe with fields of its parts replaced, `data={"batch": 8}`."""
    fields = {name: dataclasses.replace(getattr(recipe, name), **values) for name, values in parts.items()}
    return dataclasses.replace(recipe, **fields)
