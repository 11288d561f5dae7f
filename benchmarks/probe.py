"""What an encoder knows: the linear probe of `audax-train probe`, beside the same on random weights of its kind.

    python benchmarks/probe.py MODEL DATA COLUMN

MODEL is anything that `zoo.load` takes; DATA a folder by `audax-train prepare`, at the model's sample rate; each value
of COLUMN is held out in turn (`fold`, `speaker`; values of `index` are held out five at a time). An embedding is the
mean over a clip's windows, as `zoo.embed` gives it, standardised by the clips that are trained on.
"""

import argparse
import pathlib

import equinox as eqx
import jax
import numpy as np

import zoo
from train.dataset import Dataset
from train.metrics import multiclass
from train.probe import embed, fit_head, probabilities


def accuracies(features, dataset, column):
    """Of a probe on each part that is held out, trained on the others."""
    targets, values = dataset.targets, dataset.columns[column]
    parts = np.array([int(value) // 5 for value in values]) if column == "index" else values
    scores = []
    for part in np.unique(parts):
        held = parts == part
        weight, bias = fit_head(features, targets, ~held, task="multiclass")
        predicted = probabilities(features[held] @ weight.T + bias, "multiclass")
        scores.append(multiclass(predicted, targets[held])["accuracy"])
    return np.array(scores)


def main():
    """Prints both accuracies, with their spread over the parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("column")
    options = parser.parse_args()
    clip, dataset = zoo.load(options.model), Dataset(options.data)
    if clip.sample_rate != dataset.sample_rate:
        parser.error(f"{options.model} takes {clip.sample_rate} Hz, {options.data} is at {dataset.sample_rate} Hz")
    if options.column not in dataset.columns:
        parser.error(f"{options.data} has no column {options.column}: it has {', '.join(dataset.columns)}")
    if others := np.sum(dataset.targets.sum(axis=1) != 1):
        parser.error(f"{options.data} has {others} clips without a label or with several: leave them out")
    random = eqx.nn.inference_mode(zoo.create(clip.entry, key=jax.random.key(0))[0])
    for name, encoder in {"pretrained": clip, "random": zoo.Pretrained(random, clip.state, clip.entry)}.items():
        scores = accuracies(embed(encoder, dataset, clip.entry.window), dataset, options.column)
        spread = ", ".join(f"{score:.3f}" for score in scores)
        print(f"{name:11} {scores.mean():.4f} over {len(dataset)} clips by {options.column} ({spread})")


if __name__ == "__main__":
    main()
