"""Limits on what a `config.json` may ask for: its few bytes could ask for any amount of memory and time.

An entry is checked before anything is built. It is then built without arrays, and its parameters are counted before
any array is made.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ._entry import LENGTH, Entry
from ._files import CONTROL, line

PARAMETERS = 1 << 32
NUMBER = 1 << 20  # widths, classes, a sample rate in Hz
REAL = 1e9  # a frequency, a ceiling of energies
NESTING = 4  # networks in a network
DEPTH = 256  # of all stages together, and their number; each block takes 20 ms to build
LOOP = 64  # places that code loops over one by one: a border, the side of a pooled square, taps
BINS = 1024
TABLE = 1 << 24  # entries of a filterbank: bins times frequencies, taps or frames
SECOND = 1 << 24  # numbers that a frontend computes from a second of sound
WINDOW = 3600.0  # seconds

BLOCKS = ("depth", "depths", "position_layers")  # options that count blocks
LOOPS = ("padding", "stem_padding", "pools", "pieces", "kernels")  # options of a network up to LOOP
SHARES = ("dropout", "embedding_dropout", "block_dropout", "drop_path")  # options of at least 0 and below 1
LIMITS: tuple[tuple[float, str, Callable[[Entry], float]], ...] = (  # the limit, its quantity, and how to measure it
    (DEPTH, "a depth of", lambda entry: _depth(entry)),
    (NESTING, "networks in each other, in all", lambda entry: _nested(entry.network)),
    (WINDOW, "a window of seconds", lambda entry: max(entry.window, _longest(entry.frontend))),
    (TABLE, "a table of size", lambda entry: _largest(entry.network, "steps") * _largest(entry.network, "width")),
    (TABLE, "an image of", lambda entry: _largest(entry.network, "image") ** 2),
    (TABLE, "pairs in a window, in all", lambda entry: _largest(entry.network, "window") ** 4),
    (NUMBER, "classes", lambda entry: entry.classes),
    (BINS, "bins", lambda entry: _bins(entry.frontend)),
    (TABLE, "a table of size", lambda entry: _bins(entry.frontend) * max(_lengths(entry.frontend), default=1)),
    (SECOND, "numbers a second", lambda entry: _numbers(entry.frontend, _bins(entry.frontend))),
)


def check_entry(entry: Entry, where: str) -> None:
    """Raises ValueError, naming the file `where`, for an entry with a number or text beyond the limits."""
    texts = [entry.name, entry.license, entry.source, entry.paper, *entry.labels, *(entry.base or {}).values()]
    texts += [value for metric in entry.metrics for value in metric.values() if isinstance(value, str)]
    for text in texts:
        _check(where, "a text of length", len(text) if isinstance(text, str) else 0, LENGTH)
    for metric in entry.metrics:
        _check(where, "a metric of", metric["value"], REAL)
    for part in (entry.frontend, entry.network, entry.model):
        for name, value in _leaves(part):
            _check(where, "a name of length", len(name), LENGTH)
            texts += [name, value] if isinstance(value, str) else [name]
            if isinstance(value, str | tuple):
                _check(where, f"a {name} of length", len(value), LENGTH)
            elif isinstance(value, int | float):
                _check(where, name, value, NUMBER if isinstance(value, int) else REAL)
    for name, value in (("dropout", entry.dropout), *_leaves(entry.network), *_leaves(entry.model)):
        if name in SHARES and not (_is_number(value) and 0 <= value < 1):
            raise ValueError(f"{where} asks for {name} {line(repr(value))}: it is a share of at least 0 and below 1.")
        if name in BLOCKS and _is_number(value) and value < 0:
            raise ValueError(f"{where} asks for a depth of {value}: a stage has 0 blocks or more.")
    for name, value in _leaves(entry.network):
        if name in LOOPS and _is_number(value):
            _check(where, name, value, LOOP)
    for limit, quantity, measure in LIMITS:
        _check(where, quantity, measure(entry), limit)
    for text in texts:
        if text is not None and (not isinstance(text, str) or CONTROL.search(text)):
            raise ValueError(
                f"{where} holds {str(text)[:100]!a} where a line of text is needed: leave control characters out."
            )


def _check(where: str, quantity: str, value: float, limit: float) -> None:
    """Raises ValueError for a number beyond the limit, and for NaN."""
    if not -limit <= value <= limit:
        text = "beyond 1e300" if isinstance(value, int) and abs(value) > 1e300 else f"{value:.6g}"  # no float holds it
        raise ValueError(f"{where} asks for {quantity} {text}, and the zoo builds up to {limit:.6g}: do not trust it.")


def check_size(shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raises ValueError for a model of too many parameters, before any memory is allocated for them."""
    parameters = sum(math.prod(shape) for shape in shapes.values())
    if parameters > PARAMETERS:
        raise ValueError(
            f"{name} describes a model of {parameters:.3g} parameters, and the zoo loads up to {PARAMETERS:.3g}: do "
            "not trust it."
        )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers, strings and lists in a description, each with the name of its field."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, key)
    else:
        yield name, value
        if isinstance(value, tuple):
            for child in value[: LENGTH + 1]:
                yield from _leaves(child, name)


def _depth(entry: Entry) -> float:
    """The number of blocks of all networks, also of a text tower; or of stages times parts, if that is larger."""
    networks = [*_leaves(entry.network), *_leaves(entry.model)]
    blocks = sum(value for name, value in networks if name in BLOCKS and _is_number(value))
    lists = [value for _, value in (*networks, *_leaves(entry.frontend)) if isinstance(value, tuple)]
    parts = max(_largest(entry.network, "parts"), 1)  # parts of each stage of an ECAPA
    return max(blocks, parts, max(map(len, lists), default=0) * parts)


def _bins(frontend: Mapping[str, Any]) -> float:
    bins = [value for name, value in _leaves(frontend) if name == "bins" and _is_number(value)]
    return max(bins, default=64)


def _nested(network: Any) -> int:
    """The number of networks that are nested in each other."""
    return 1 + _nested(network.get("network")) if isinstance(network, Mapping) else 0


def _largest(part: Mapping[str, Any], option: str) -> float:
    """The largest number of the field `option`; 1 if there is none."""
    return max((value for name, value in _leaves(part) if name == option and _is_number(value)), default=1)


def _longest(frontend: Mapping[str, Any]) -> float:
    """The seconds to which a frontend pads every clip."""
    seconds = _largest(frontend, "seconds")
    hop = _largest(frontend, "hop_length") if "hop_length" in frontend else 160
    return max(seconds, _largest(frontend, "total_frames") * hop / frontend["sample_rate"])


def _lengths(frontend: Mapping[str, Any]) -> Iterator[float]:
    """The numbers of samples or frames that a filterbank has for each bin."""
    for name, value in _leaves(frontend):
        if name in ("n_fft", "win_length", "frames") and _is_number(value):
            yield value
        elif name in ("frame_length", "window_ms") and _is_number(value):
            yield value / 1000 * frontend["sample_rate"]


def _numbers(frontend: Mapping[str, Any], bins: float) -> float:
    """The numbers that a frontend holds at once for a second of sound."""
    rate = frontend["sample_rate"]
    if frontend.get("type") in ("LEAF", "SincNet"):  # each bin is filtered at every sample
        return rate * bins

    def option(name: str, default: float) -> float:
        value = frontend.get(name)
        return default if value is None or not _is_number(value) else value

    hop = option("hop_length", option("frame_shift", 10.0) / 1000 * rate)
    if hop <= 0:
        return 0.0  # the frontend raises a clearer error
    return rate / max(hop, 1) * option("n_fft", option("frame_length", 25.0) / 1000 * rate)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
