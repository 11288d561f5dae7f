"""The accuracy of a linear probe on a pretrained encoder, beside that on the same encoder with random weights.

    python benchmarks/probe.py MODEL DATA COLUMN

The probe is that of `audax-train probe`. MODEL is anything that `zoo.load` takes. DATA is a folder from `audax-train
prepare` at the model's sample rate. Each value of COLUMN, like `fold` or `speaker`, is held out in turn; values of
`index` are held out five at a time. An embedding is the mean over a clip's windows, as `zoo.embed` gives it, and is
standardised by the clips that the probe is trained on.
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
    """The accuracy of each part, by a probe that is trained on all other parts."""
    targets, values = dataset.targets, dataset.columns[column]
    parts = np.array([int(value) // 5 for value in values]) if column == "index" else values
    scores = []
    for part in np.unique(parts):
        mask = parts == part
        weight, bias = fit_head(features, targets, ~mask, task="multiclass")
        predictions = probabilities(features[mask] @ weight.T + bias, "multiclass")
        scores.append(multiclass(predictions, targets[mask])["accuracy"])
    return np.array(scores)


def main():
    """Prints the mean accuracy of both encoders, and that of each part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("column")
    options = parser.parse_args()
    clip, dataset = zoo.load(options.model), Dataset(options.data)
    if clip.sample_rate != dataset.sample_rate:
        rates = f"{options.model} takes {clip.sample_rate} Hz, {options.data} is at {dataset.sample_rate} Hz"
        parser.error(f"{rates}: prepare it with --sample-rate {clip.sample_rate}.")
    if options.column not in dataset.columns:
        parser.error(f"{options.data} has no column {options.column}: it has {', '.join(dataset.columns)}.")
    if count := np.sum(dataset.targets.sum(axis=1) != 1):
        parser.error(f"{options.data} has {count} clips without a label or with several: leave them out.")
    random_model = eqx.nn.inference_mode(zoo.create(clip.entry, key=jax.random.key(0))[0])
    for name, encoder in {"pretrained": clip, "random": zoo.Pretrained(random_model, clip.state, clip.entry)}.items():
        scores = accuracies(embed(encoder, dataset, clip.entry.window), dataset, options.column)
        score_list = ", ".join(f"{score:.3f}" for score in scores)
        print(f"{name:11} {scores.mean():.4f} over {len(dataset)} clips by {options.column} ({score_list})")


if __name__ == "__main__":
    main()
