"""How much a `config.json` may ask for: in a few bytes it could ask for any amount of memory and time.

Checked before anything is built. What passes is built without arrays, and its parameters are counted before any is
made.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ._entry import Entry

PARAMETERS = 1 << 32
NUMBER = 1 << 20  # widths, classes, a sample rate in Hz
REAL = 1e9  # a frequency, a ceiling of energies
LENGTH = 1000  # of a string or a list that is no list of labels
DEPTH = 256  # of all stages together; each block takes time to build
BINS = 1024
TABLE = 1 << 24  # entries of a filterbank: bins times frequencies, taps or frames
WINDOW = 3600.0  # seconds
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_entry(entry: Entry, where: str) -> None:
    """Raises ValueError that names `where` for an entry that no model of sound needs."""

    def at_most(most: float, name: str, value: float) -> None:
        if not -most <= value <= most:
            large = isinstance(value, int) and abs(value) > 1e300  # which no float holds
            shown = "beyond 1e300" if large else f"{value:.6g}"
            raise ValueError(f"{where} asks for {name} {shown}, and the zoo builds up to {most:.6g}: do not trust it.")

    texts = [entry.name, entry.license, entry.source, entry.paper, *entry.labels]
    texts += [value for each in entry.metrics for value in each.values() if isinstance(value, str)]
    for part in (entry.frontend, entry.network, entry.model):
        for name, value in _leaves(part):
            at_most(LENGTH, "a name of length", len(name))
            texts += [name, value] if isinstance(value, str) else [name]
            if isinstance(value, str | tuple):
                at_most(LENGTH, f"a {name} of length", len(value))
            elif isinstance(value, int | float):
                at_most(NUMBER if isinstance(value, int) else REAL, name, value)
    depths = [value for name, value in _leaves(entry.network) if name in ("depth", "depths") and _is_number(value)]
    if min(depths, default=0) < 0:
        raise ValueError(f"{where} asks for a depth of {min(depths)}: a stage has 0 blocks or more.")
    at_most(DEPTH, "a depth of", sum(depths))
    at_most(WINDOW, "a window of seconds", entry.window)
    at_most(NUMBER, "classes", entry.classes)
    bins = max([value for name, value in _leaves(entry.frontend) if name == "bins" and _is_number(value)], default=1)
    at_most(BINS, "bins", bins)
    at_most(TABLE, "a table of size", bins * max(_lengths(entry.frontend), default=1))
    for text in texts:
        if text is not None and (not isinstance(text, str) or CONTROL.search(text)):
            raise ValueError(
                f"{where} holds {str(text)[:100]!r} where a line of text is needed: leave control characters out."
            )


def check_size(shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raises ValueError for a model of too many parameters, of which nothing is allocated yet."""
    parameters = sum(math.prod(shape) for shape in shapes.values())
    if parameters > PARAMETERS:
        raise ValueError(
            f"{name} describes a model of {parameters:.3g} parameters, and the zoo loads up to {PARAMETERS:.3g}: do "
            "not trust it."
        )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers, strings and lists in a description, each with the name of its field."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, key)
    else:
        yield name, value
        if isinstance(value, tuple):
            for each in value[: LENGTH + 1]:
                yield from _leaves(each, name)


def _lengths(frontend: Mapping[str, Any]) -> Iterator[float]:
    """How many samples or frames go with each bin."""
    for name, value in _leaves(frontend):
        if name in ("n_fft", "win_length", "frames") and _is_number(value):
            yield value
        elif name in ("frame_length", "window_ms") and _is_number(value):
            yield value / 1000 * frontend["sample_rate"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
