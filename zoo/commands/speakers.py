"""`audax-zoo compare`: how similar pairs of recordings are, and how well this tells their speakers apart."""

import argparse
import csv
import pathlib
from collections.abc import Callable

import numpy as np

import zoo

from .._rows import utf8
from .._speakers import Pair, cosine, equal_error_rate, minimum_cost, read_pairs
from ._shared import Progress, add_hearing, engine, output
from ._signals import signals

MODEL = "ecapa_voxceleb"


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `command` makes the parser of one."""
    comparing = command(
        compare,
        "compare two recordings by the cosine of their embeddings",
        "With a model of speakers, 1 means the same voice and about 0 another one. For a list of trials with labels "
        "the equal error rate and minDCF are printed, too.",
    )
    comparing.add_argument("files", nargs="*", metavar="A B", help="two recordings")
    comparing.add_argument(
        "--trials",
        type=pathlib.Path,
        metavar="LIST",
        help="pairs, one per line: 'label path path', as in VoxCeleb's lists, or 'path path'",
    )
    comparing.add_argument(
        "--root", type=pathlib.Path, metavar="FOLDER", help="the folder of the paths in LIST (default: that of LIST)"
    )
    comparing.add_argument(
        "--prior",
        type=float,
        default=0.01,
        metavar="P",
        help="the probability of one speaker, in minDCF (default: 0.01)",
    )
    comparing.add_argument("-o", "--output", type=pathlib.Path, metavar="OUT.csv", help="the scores of all pairs")
    add_hearing(comparing, MODEL)


def compare(options: argparse.Namespace) -> int:
    if (len(options.files) == 2) == (options.trials is not None) or len(options.files) not in (0, 2):
        raise ValueError("compare takes two recordings, A and B, or a list of pairs, --trials LIST.")
    if options.output is not None and options.output.suffix != ".csv":
        raise ValueError(f"compare writes .csv, got {options.output.name!r}.")
    pairs = read_pairs(options.trials, options.root) if options.trials else [Pair(*options.files)]
    files = list(dict.fromkeys(file for pair in pairs for file in (pair.first, pair.second)))
    clip = zoo.load(options.model)
    progress = Progress(len(files), bar=options.trials is not None)
    results = progress.of(zoo.embed(clip, files, **engine(options)))
    embeddings = {result.source: result.values[0] for result in results if result.error is None}
    code = progress.report()
    if signals.number:
        return code
    scored_pairs = [pair for pair in pairs if pair.first in embeddings and pair.second in embeddings]
    scores = np.array([cosine(embeddings[pair.first], embeddings[pair.second]) for pair in scored_pairs])
    if options.trials is None:
        print(*(f"{score:.4f}" for score in scores), sep="\n", end="\n" * len(scores))
    if options.output is not None or (pairs[0].same is None and options.trials is not None):
        _write(options, scored_pairs, scores)
    if scored_pairs and pairs[0].same is not None:
        _summarise(scored_pairs, scores, options.prior, len(pairs))
    return code


def _write(options: argparse.Namespace, pairs: list[Pair], scores: np.ndarray) -> None:
    with output(options) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("label", "first", "second", "score"))
        for pair, score in zip(pairs, scores, strict=True):
            label = "" if pair.same is None else int(pair.same)
            writer.writerow((label, utf8(pair.first), utf8(pair.second), f"{score:.6f}"))


def _summarise(pairs: list[Pair], scores: np.ndarray, prior: float, total: int) -> None:
    same = np.array([pair.same for pair in pairs], bool)
    count = f"{len(pairs)} of {total}" if len(pairs) < total else total
    print(f"trials {count}, of one speaker {np.sum(same)}")
    print(f"EER {equal_error_rate(scores, same):.4f}")
    print(f"minDCF {minimum_cost(scores, same, prior):.4f} (of one speaker with probability {prior:g})")
