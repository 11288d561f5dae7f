"""Downloads the part of a safetensors file that a model needs, such as Whisper's encoder without the decoder.

The part is fetched by byte ranges and becomes a safetensors file of its own, in the zoo's folder within the Hub's cache
of the repo. The file appears only when it is complete. The Hub publishes a digest only of the whole file, so a part is
checked by the sizes of the answers, and by the names and shapes that its reader expects.
"""

import hashlib
import json
import pathlib
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from ._files import most_bytes
from ._hub import cached_path, own_folder, progress_bar, range_content
from ._rules import Rule, drops
from ._weights import atomic

SHARE = 0.6  # the largest share of all bytes for which a part is fetched alone
RUNS, BLOCK = 64, 1 << 24  # the most runs of neighbouring arrays; bytes of one request
HEADER = 1 << 26  # bytes, more than safetensors allows
Place = tuple[int, int]  # the first byte of an array in a file, and the one behind its last


def part(repo: str, file: str, commit: str, rules: Sequence[Rule]) -> pathlib.Path | None:
    """The path of a file with the arrays of a safetensors file that no rule drops; fetches them if they are not cached.

    None if the whole file is in the cache or should be fetched instead: because there is little to drop, because the
    Hub sends no ranges of it, or after an error.
    """
    patterns = drops(rules)
    drop_pattern = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    if not patterns or not file.endswith(".safetensors") or cached_path(repo, file, commit) is not None:
        return None
    digest = hashlib.sha256("\n".join([file, *patterns]).encode()).hexdigest()[:16]
    path = own_folder(repo) / f"{commit}-{digest}.safetensors"
    if path.exists():
        return path
    try:
        start, arrays = _header(repo, file, commit)
        selection = {name: array for name, array in arrays.items() if not drop_pattern.fullmatch(name)}
        places = sorted(_place(array) for array in selection.values())
        runs = [(start + first, start + last) for first, last in _merged(places)]
        size, total = _size(places), _size(map(_place, arrays.values()))
        if size > min(SHARE * total, most_bytes(file)) or len(runs) > RUNS:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, open(temporary, "wb") as target, progress_bar(f"part of {file}", size) as bar:
            _write_header(target, selection)
            for first, last in _blocks(runs):
                target.write(range_content(repo, file, commit, first, last))
                bar.update(last - first)
    except Exception:  # the download of the whole file follows: it succeeds, or reports the error
        return None
    return path


def _header(repo: str, file: str, commit: str) -> tuple[int, dict[str, Mapping[str, Any]]]:
    """The position of the first array, and the description of each. Raises ValueError for another kind of file."""
    (size,) = struct.unpack("<Q", range_content(repo, file, commit, 0, 8))
    if size > HEADER:
        raise ValueError(f"{file} of {repo} is no safetensors file.")
    header = json.loads(range_content(repo, file, commit, 8, 8 + size))
    header.pop("__metadata__", None)
    return 8 + size, header


def _place(array: Mapping[str, Any]) -> Place:
    """The place of an array within the data. Raises ValueError for one that makes no sense."""
    first, last = array["data_offsets"]
    if not (type(first) is type(last) is int and 0 <= first <= last):
        raise ValueError(f"{array} lies nowhere.")
    return first, last


def _size(places: Iterable[Place]) -> int:
    return sum(last - first for first, last in places)


def _merged(places: Iterable[Place]) -> list[Place]:
    """Sorted places, with neighbours joined into one. Raises ValueError if two overlap."""
    spans: list[Place] = []
    for first, last in places:
        if spans and first < spans[-1][1]:
            raise ValueError("Two arrays overlap.")
        if spans and first == spans[-1][1]:
            first = spans.pop()[0]
        spans.append((first, last))
    return spans


def _blocks(runs: Iterable[Place]) -> Iterator[Place]:
    """The runs, cut into pieces of at most a block."""
    for first, last in runs:
        for start in range(first, last, BLOCK):
            yield start, min(start + BLOCK, last)


def _write_header(target: IO[bytes], arrays: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the header of a safetensors file with these arrays, which keep their order and have no gaps."""
    header, end = {}, 0
    for name, array in sorted(arrays.items(), key=lambda item: _place(item[1])):
        first, last = _place(array)
        header[name] = {**array, "data_offsets": [end, end + last - first]}
        end += last - first
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as safetensors aligns the arrays
    target.write(struct.pack("<Q", len(text)) + text)
