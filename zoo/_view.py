"""Parts of a file, and bytes that stand in for others, as one file for a decoder to read."""

import bisect
import itertools
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple, no_type_check

Part = tuple[int, int] | bytes  # from where to where in the file, or bytes in place of a part


class View:
    """The `parts` of a seekable `file` one behind the other, with the methods that soundfile asks of a file.

    It says that it is longer by `surplus` bytes, which cannot be read but for the last few, where tags would lie.
    A decoder cannot pass on an OSError: it takes it for the end of the file. It is kept as `error`.
    """

    def __init__(self, file: BinaryIO, parts: Sequence[Part], surplus: int = 0):
        self.file, self.parts, self.surplus = file, list(parts), surplus
        sizes = (len(part) if isinstance(part, bytes) else part[1] - part[0] for part in self.parts)
        self.ends = list(itertools.accumulate(sizes))
        self.position = 0
        self.error: OSError | None = None

    @property
    def ended(self) -> bool:
        """Whether all has been read."""
        return self.position >= self.ends[-1]

    @no_type_check  # a check takes longer
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.ends[-1] + self.surplus}[whence]
        self.position = max(origin + offset, 0)
        return self.position

    @no_type_check
    def tell(self) -> int:
        return self.position

    @no_type_check  # a check takes longer
    def readinto(self, buffer: Any) -> int:
        target, count = memoryview(buffer).cast("B"), 0
        if self.position - self.ends[-1] > self.surplus // 2:
            target[:] = bytes(len(target))
            return len(target)
        while count < len(target) and self.position < self.ends[-1]:
            index = bisect.bisect_right(self.ends, self.position)
            part, left = self.parts[index], self.ends[index] - self.position
            piece = target[count : count + left]
            if isinstance(part, bytes):
                piece[:] = part[len(part) - left :][: len(piece)]
                size = len(piece)
            else:
                size = self._from_file(part[1] - left, piece)
            if size == 0:
                break
            self.position += size
            count += size
        return count

    @no_type_check
    def _from_file(self, start: int, piece: memoryview) -> int:
        try:
            self.file.seek(start)
            return self.file.readinto(piece)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError as error:
            self.error = error
            return 0


class Link(NamedTuple):
    """A stretch of sound in a file, whole in itself.

    `cut` is whether the file ends before the sound does, `counted` whether the decoder knows how long that is; `doubt`
    says in what a header and the file disagree.
    """

    view: View
    cut: bool = False
    counted: bool = True
    doubt: str = ""


@no_type_check
def bytes_at(file: BinaryIO, position: int, count: int) -> bytes:
    """`count` bytes from `position` on, fewer at the file's end."""
    file.seek(position)
    return file.read(count)


def find(file: BinaryIO, wanted: bytes, start: int, end: int, block: int = 1 << 18) -> int:
    """The first position of `wanted` that lies whole between `start` and `end`, or -1."""
    while start + len(wanted) <= end:
        found = bytes_at(file, start, min(block, end - start)).find(wanted)
        if found >= 0:
            return start + found
        start += block - len(wanted) + 1
    return -1
