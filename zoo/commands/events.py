"""`audax-zoo detect`: `zoo.detect` of files, and where the events go."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from .._labels import rank
from ._shared import (
    Progress,
    add_formats,
    add_recordings,
    add_words,
    check_labels,
    check_writable,
    count,
    engine,
    files_of,
    load_with_labels,
    mean,
    one_line,
    output,
    picture,
)

if TYPE_CHECKING:
    from .._event_files import Detections


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `command` makes the parser of one."""
    detection = command(
        detect,
        "find the times at which sounds begin and end",
        "An event begins where the score reaches the threshold and ends where it falls below the release.",
    )
    add_recordings(detection, " (default: a packaged sound)", "half a window")
    add_words(detection)
    detection.add_argument(
        "-o", "--output", type=pathlib.Path, metavar="OUT.csv|.json|.txt|.selections.txt",
        help="CSV, JSON lines, labels of Audacity or a selection table of Raven",
    )  # fmt: skip
    add_formats(detection)
    for name, help in {
        "label": "a label to detect; repeat the option for others (default: all)",
        "threshold": "the score at which an event begins, for all labels or for one, Dog=0.3 (default: 0.5)",
        "release": "the score below which an event ends (default: the threshold)",
    }.items():
        number = "LABEL" if name == "label" else "SCORE|LABEL=SCORE"
        detection.add_argument(f"--{name}", action="append", metavar=number, help=help)
    detection.add_argument("--each", choices=("window", "frame"), default="window", help="what gets scores")
    for name, help in {
        "smooth": "the span over which scores are averaged first",
        "max-gap": "the longest gap between events that are joined",
        "min-duration": "the shortest event that is kept",
    }.items():
        detection.add_argument(f"--{name}", type=float, default=0.0, metavar="SECONDS", help=help)
    detection.add_argument("--plot", type=pathlib.Path, metavar="OUT.png", help="draw the events of one file")


def detect(options: argparse.Namespace) -> int:
    from .._event_files import FORMATS, format_of  # needs JAX
    from .._events import detections

    suffix = format_of(options.output) if options.output else options.format
    draw = picture(options)
    if options.output is not None:
        check_writable(options.output)
    check_labels(options)
    files = files_of(options)
    if suffix == ".txt" and not (isinstance(files, list) and len(files) == 1):
        raise ValueError(
            f"An Audacity label file holds one recording, and {options.output} would hold several: write a "
            ".selections.txt, a .csv or a .json, or detect them one by one."
        )
    clip = load_with_labels(options)
    scores = {name: _numbers(name, getattr(options, name), clip.labels) for name in ("threshold", "release")}
    spans = {name: getattr(options, name) for name in ("smooth", "max_gap", "min_duration", "each")}
    progress = Progress(count(files), bar=options.output is not None)
    threshold = 0.5 if scores["threshold"] is None else scores["threshold"]
    pairs = detections(
        clip, files, labels=options.label, threshold=threshold, release=scores["release"], **spans, **engine(options)
    )
    pairs_read: Detections = (pair for pair in progress.of(pairs, lambda pair: pair[0]) if pair[0].error is None)
    if draw is not None:
        pairs_read = list(pairs_read)  # a list of one item
    with output(options) as file:
        write_events = _show_events if suffix is None else FORMATS[suffix]
        write_events(file, pairs_read, clip.sample_rate)
    if draw is not None and pairs_read:
        ((result, events),) = pairs_read
        event_labels = options.label or list(dict.fromkeys(event.label for event in events))
        draw(result, clip, event_labels[:20] or [label for label, _ in rank(mean(result), clip.labels, 5)], events)
    return progress.report()


def _show_events(file: TextIO, pairs_read: Detections, sample_rate: int) -> None:
    for result, events in pairs_read:
        print(one_line(result.source), file=file)
        for event in events:
            print(f"  {event.start:.2f} to {event.end:.2f} s  {event.score:.3f}  {event.label}", file=file)
        file.flush()


def _numbers(name: str, texts: list[str] | None, labels: tuple[str, ...]) -> float | dict[str, float] | None:
    """The scores of an option that may be given for all labels, for single labels, or for both."""
    default_score, scores_by_label = None, {}
    for text in texts or ():
        label, equals, number = text.rpartition("=")
        try:
            if equals:
                scores_by_label[label] = float(number)
            else:
                default_score = float(number)
        except ValueError:
            raise ValueError(f"--{name} takes a score, 0.4 or Dog=0.4, got {text!r}.") from None
    if not scores_by_label:
        return default_score
    return scores_by_label if default_score is None else dict.fromkeys(labels, default_score) | scores_by_label
