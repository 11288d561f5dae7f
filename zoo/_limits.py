"""How much a `config.json` may ask for: in a few bytes it could ask for any amount of memory and time.

Checked before anything is built. What passes is built without arrays, and its parameters are counted before any is
made.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ._entry import Entry
from ._files import CONTROL, line

PARAMETERS = 1 << 32
NUMBER = 1 << 20  # widths, classes, a sample rate in Hz
REAL = 1e9  # a frequency, a ceiling of energies
LENGTH = 1000  # of a string or a list that is no list of labels
BLOCKS = ("depth", "depths", "position_layers")
NESTED = 4  # networks in a network
DEPTH = 256  # of all stages together, and their number; each block takes time to build
BORDER = 64  # of zeros around a map, or the side of a square that is pooled
BINS = 1024
TABLE = 1 << 24  # entries of a filterbank: bins times frequencies, taps or frames
SECOND = 1 << 24  # numbers that a frontend makes of a second of sound
WINDOW = 3600.0  # seconds


def check_entry(entry: Entry, where: str) -> None:
    """Raises ValueError that names `where` for an entry that no model of sound needs."""

    def at_most(most: float, name: str, value: float) -> None:
        if not -most <= value <= most:
            large = isinstance(value, int) and abs(value) > 1e300  # which no float holds
            shown = "beyond 1e300" if large else f"{value:.6g}"
            raise ValueError(f"{where} asks for {name} {shown}, and the zoo builds up to {most:.6g}: do not trust it.")

    texts = [entry.name, entry.license, entry.source, entry.paper, *entry.labels, *(entry.base or {}).values()]
    texts += [value for each in entry.metrics for value in each.values() if isinstance(value, str)]
    for text in texts:
        at_most(LENGTH, "a text of length", len(text) if isinstance(text, str) else 0)
    for each in entry.metrics:
        at_most(REAL, "a metric of", each["value"])
    for part in (entry.frontend, entry.network, entry.model):
        for name, value in _leaves(part):
            at_most(LENGTH, "a name of length", len(name))
            texts += [name, value] if isinstance(value, str) else [name]
            if isinstance(value, str | tuple):
                at_most(LENGTH, f"a {name} of length", len(value))
            elif isinstance(value, int | float):
                at_most(NUMBER if isinstance(value, int) else REAL, name, value)
    networks = [*_leaves(entry.network), *_leaves(entry.model)]  # a text tower is an option of the model
    depths = [value for name, value in networks if name in BLOCKS and _is_number(value)]
    if min(depths, default=0) < 0:
        raise ValueError(f"{where} asks for a depth of {min(depths)}: a stage has 0 blocks or more.")
    parts = [*networks, *_leaves(entry.frontend)]
    stages = max((len(value) for _, value in parts if isinstance(value, tuple)), default=0)
    at_most(DEPTH, "a depth of", max(sum(depths), stages))
    at_most(NESTED, "networks in each other, in all", _nested(entry.network))
    for name, value in [("dropout", entry.dropout), *_leaves(entry.network)]:
        if "drop" in name and not (_is_number(value) and 0 <= value < 1):
            raise ValueError(f"{where} asks for {name} {line(repr(value))}: it is a share of at least 0 and below 1.")
        if ("padding" in name or "pool" in name) and _is_number(value):
            at_most(BORDER, name, value)
    at_most(WINDOW, "a window of seconds", max(entry.window, _longest(entry.frontend)))
    at_most(TABLE, "a table of size", math.prod(_largest(entry.network, name) for name in ("steps", "width")))
    at_most(TABLE, "an image of", _largest(entry.network, "image") ** 2)
    at_most(TABLE, "pairs in a window, in all", _largest(entry.network, "window") ** 4)
    at_most(NUMBER, "classes", entry.classes)
    bins = max([value for name, value in _leaves(entry.frontend) if name == "bins" and _is_number(value)], default=64)
    at_most(BINS, "bins", bins)
    at_most(TABLE, "a table of size", bins * max(_lengths(entry.frontend), default=1))
    at_most(SECOND, "numbers a second", _numbers(entry.frontend, bins))
    for text in texts:
        if text is not None and (not isinstance(text, str) or CONTROL.search(text)):
            raise ValueError(
                f"{where} holds {str(text)[:100]!a} where a line of text is needed: leave control characters out."
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


def _nested(network: Any) -> int:
    """How many networks there are, each in the one before."""
    return 1 + _nested(network.get("network")) if isinstance(network, Mapping) else 0


def _largest(part: Mapping[str, Any], option: str) -> float:
    """The largest number of that name; 1 where there is none."""
    return max((value for name, value in _leaves(part) if name == option and _is_number(value)), default=1)


def _longest(frontend: Mapping[str, Any]) -> float:
    """The seconds that a frontend fills every clip up to."""
    seconds = _largest(frontend, "seconds")
    hop = _largest(frontend, "hop_length") if "hop_length" in frontend else 160
    return max(seconds, _largest(frontend, "total_frames") * hop / frontend["sample_rate"])


def _lengths(frontend: Mapping[str, Any]) -> Iterator[float]:
    """How many samples or frames go with each bin."""
    for name, value in _leaves(frontend):
        if name in ("n_fft", "win_length", "frames") and _is_number(value):
            yield value
        elif name in ("frame_length", "window_ms") and _is_number(value):
            yield value / 1000 * frontend["sample_rate"]


def _numbers(frontend: Mapping[str, Any], bins: float) -> float:
    """How many numbers a frontend has at once for a second of sound."""
    rate = frontend["sample_rate"]
    if frontend.get("type") in ("LEAF", "SincNet"):  # each bin is filtered at every sample
        return rate * bins

    def option(name: str, default: float) -> float:
        value = frontend.get(name)
        return default if value is None or not _is_number(value) else value

    hop = option("hop_length", option("frame_shift", 10.0) / 1000 * rate)
    if hop <= 0:
        return 0.0  # the frontend's own sentence tells more
    return rate / max(hop, 1) * option("n_fft", option("frame_length", 25.0) / 1000 * rate)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
