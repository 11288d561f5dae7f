"""Recordings of a few seconds, manifests of their parts, and the examples that are prepared from them."""

import numpy as np
import soundfile

from train.data import Dataset
from train.records import prepare

RATE = 1000
RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"


def record(path, seconds, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-20000, 20000, round(seconds * RATE), dtype=np.int16)
    soundfile.write(path, samples, RATE)
    return samples


def manifest(folder, *rows, head="files,start,end,labels"):
    (folder / "manifest.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder / "manifest.csv"


def prepared(folder, *rows, **settings):
    out = folder / "out"
    prepare(manifest(folder, *rows), out, sample_rate=RATE, processes=1, **settings)
    return Dataset(out)


def parts(dataset):
    """(file, start, end, labels) of each example, in seconds."""
    for name, span, target in zip(dataset.ids, dataset.spans / RATE, dataset.targets, strict=True):
        labels = ";".join(label for label, there in zip(dataset.labels, target, strict=True) if there)
        yield name, *span.tolist(), labels
