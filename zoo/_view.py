"""Joins parts of a file, and bytes that replace other parts, into one file for a decoder."""

import bisect
import itertools
import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, no_type_check, runtime_checkable

BLOCK = 1 << 16  # bytes
Part = tuple[int, int] | bytes  # start and end in the file, or bytes that replace a part


@runtime_checkable
class File(Protocol):
    """A binary file in which one can seek."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Moves to a position."""
        ...


@no_type_check  # a check takes longer than a read
class View:
    """The `parts` of a seekable `file`, joined in order, with the methods that soundfile needs of a file.

    It claims to be longer by `surplus` bytes. Only the last of these can be read, as zeros, where tags would lie. A
    decoder takes an OSError for the end of the file, so the error is stored as `error`.
    """

    def __init__(self, file: File, parts: Sequence[Part], surplus: int = 0):
        self.file, self.parts, self.surplus = file, list(parts), surplus
        sizes = (len(part) if isinstance(part, bytes) else part[1] - part[0] for part in self.parts)
        self.ends = list(itertools.accumulate(sizes))
        self.position = self.begin = 0
        self.block = b""  # the data from `begin` on: decoders ask for a few bytes at a time
        self.error: OSError | None = None

    @property
    def ended(self) -> bool:
        """Whether all parts have been read."""
        return self.position >= self.ends[-1]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.ends[-1] + self.surplus}[whence]
        self.position = max(origin + offset, 0)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        start, size = self.position - self.begin, len(buffer)
        if start < 0 or start + size > len(self.block):
            self.begin, start = self.position, 0
            self.block = self._read(max(size, BLOCK))
        piece = self.block[start : start + size]
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)

    def _read(self, count: int) -> bytes:
        """`count` bytes from the position on, fewer at the end."""
        if self.surplus and self.position - self.ends[-1] > self.surplus // 2:
            return bytes(count)
        pieces, position = [], self.position
        while count > 0 and position < self.ends[-1]:
            index = bisect.bisect_right(self.ends, position)
            part, rest = self.parts[index], self.ends[index] - position
            size = min(count, rest)
            is_replacement = isinstance(part, bytes)
            piece = part[len(part) - rest :][:size] if is_replacement else self._from_file(part[1] - rest, size)
            if not piece:
                break
            pieces.append(piece)
            count, position = count - len(piece), position + len(piece)
        return b"".join(pieces)

    def _from_file(self, start: int, size: int) -> bytes:
        try:
            return bytes_at(self.file, start, size)
        except OSError as error:
            self.error = error
            return b""


class Link(NamedTuple):
    """A stretch of sound in a file that can be decoded on its own.

    `is_cut` says whether the file ends before the sound does, and `has_count` whether the decoder knows the length of
    the sound. `doubt` says in what a header and the file disagree.
    """

    view: View
    is_cut: bool = False
    has_count: bool = True
    doubt: str = ""


@no_type_check
def bytes_at(file: File, position: int, count: int) -> bytes:
    """`count` bytes from `position` on, fewer at the file's end."""
    file.seek(position)
    return file.read(max(count, 0))


@no_type_check
def numbers_at(file: File, position: int, form: str) -> tuple[int, ...]:
    """Numbers in a format of `struct`; bytes behind the file's end count as 0."""
    size = struct.calcsize(form)
    return struct.unpack(form, bytes_at(file, position, size).ljust(size, b"\0"))


def find(file: File, content: bytes, start: int, end: int, block: int = 1 << 18) -> int:
    """The first position at which `content` lies completely between `start` and `end`; -1 if there is none."""
    while start + len(content) <= end:
        offset = bytes_at(file, start, min(block, end - start)).find(content)
        if offset >= 0:
            return start + offset
        start += block - len(content) + 1
    return -1
