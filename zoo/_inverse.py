"""Applies rename tables backwards: turns our arrays into those of a foreign checkpoint."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from ._rules import Rule, flat, hwio, only, same, taps_first, time_first

GROUP = re.compile(r"\((\?:)?((?:[^()]|\([^()]*\))*)\)(\??)")  # may hold groups, but no deeper nesting
INVERSES: dict[Callable, Callable[[np.ndarray], np.ndarray]] = {
    same: same,
    taps_first: taps_first,
    time_first: time_first,
    hwio: lambda kernel: kernel.transpose(3, 2, 0, 1),
    only: lambda array: array[None],
}


def keys(pattern: str, start: int = 1) -> Iterator[str]:
    """All keys that a rule's pattern matches, each a template with \\1, \\2, ... in place of its groups."""
    group = GROUP.search(pattern)
    if group is None:
        yield pattern.replace("\\.", ".")
        return
    head, tail = pattern[: group.start()].replace("\\.", "."), pattern[group.end() :]
    if group[1] is None:
        yield from (f"{head}\\{start}{rest}" for rest in keys(tail, start + 1))
        return
    choices = [choice for part in _alternatives(group[2]) for choice in keys(part, start)] + [""] * bool(group[3])
    yield from (head + choice + rest for choice, rest in itertools.product(choices, keys(tail, start)))


def _alternatives(pattern: str) -> list[str]:
    """The alternatives that the bars outside of groups separate."""
    inner = [match.span() for match in GROUP.finditer(pattern)]
    bars = [at for at, char in enumerate(pattern) if char == "|" and not any(low < at < high for low, high in inner)]
    return [pattern[low + 1 : high] for low, high in itertools.pairwise([-1, *bars, len(pattern)])]


def unnamed(
    arrays: Mapping[str, np.ndarray],
    rules: Sequence[Rule],
    preferences: Iterable[str] = (),
    undo: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
) -> dict[str, np.ndarray]:
    """Our arrays by the keys from which `rules` would read them.

    If several keys fit an array, the key with most of the words in `preferences` is taken, and of these the shortest.
    `undo` maps the end of a key to the inverse of its rule's move; other inverses are in `INVERSES`. Raises ValueError
    for an array that no rule fills.
    """
    foreign_arrays = {}
    for name, array in arrays.items():
        templates = []
        for rule in rules:
            if isinstance(rule.replacement, str) and (match := _matches(rule.replacement, name)):
                groups = {int(group[1:]): value for group, value in match.groupdict().items()}
                fills = (re.sub(r"\\(\d+)", lambda each: groups[int(each[1])], key) for key in keys(rule.pattern))  # noqa: B023
                templates += [(key, rule) for key in fills if re.fullmatch(rule.pattern, key)]
        if not templates:
            raise ValueError(f"it has no key for the array {name}")
        key, rule = max(templates, key=lambda item: (sum(word in item[0] for word in preferences), -len(item[0])))
        inverse = next((back for end, back in (undo or {}).items() if key.endswith(end)), None)
        foreign_arrays[key] = np.ascontiguousarray((inverse or INVERSES[rule.move])(array))
    return foreign_arrays


def _matches(replacement: str, name: str) -> re.Match | None:
    """The match of a name with a replacement, in which \\1 stands for the first group; None if it does not fit."""
    parts = re.split(r"\\(\d+)", replacement)
    pattern = "".join(f"(?P<g{part}>.+?)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    return re.fullmatch(pattern, name)


def row(array: np.ndarray) -> np.ndarray:
    """A vector as the last of three axes: the inverse of `flat` for arrays of that shape."""
    return flat(array)[None, None]
