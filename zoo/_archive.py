"""Reading of a zip archive that torch wrote. Every claim is checked: the places, sizes and names of the entries.

The layout from the end of the file: a record of the whole archive, which says where the list of entries begins; the
list, which says where each entry begins; and at each of these places the entry's name again, followed by its bytes.
The specification is PKWARE's APPNOTE.TXT, 6.3.10.
"""

import itertools
import mmap
import pathlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, no_type_check

ENTRIES = 1 << 16  # at most, in one archive
RATIO = 100  # all packed entries together may grow by this factor, and by SLACK bytes more
SLACK = 1 << 20
ENCRYPTION, SIZES_BEHIND = 0x2041, 0x0008  # flags: any kind of encryption; the sizes follow the bytes
WHOLE, LONG_WHOLE, PLACE = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
LISTING, LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
ALL_ONES = 0xFFFFFFFF  # a mark: the number stands elsewhere, in 64 bits


class Fault(ValueError):
    """The fault of a file, as the end of a sentence that begins with the file's path."""


class Entry(NamedTuple):
    """The place of an entry: `packed_size` bytes from `start` on, which unpack to `size` bytes."""

    start: int
    packed_size: int
    size: int
    is_deflated: bool


def broken(reason: str) -> Fault:
    """The fault of a file that torch would not have written."""
    return Fault(f"is not a whole torch file ({reason}): fetch or copy it again")


def entries(data: mmap.mmap) -> Mapping[str, Entry]:
    """The entries of an archive, by name. Nothing is unpacked. Raises Fault for an archive that is broken or false."""
    try:
        count, start, end = _list(data)
        if count > ENTRIES:
            raise broken(f"it claims {count} entries")
        result = {}
        for name, entry in _listed(data, count, start, end):
            if name in result:
                raise broken("two entries have one name")
            result[name] = entry
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError):
        raise broken("its list of entries makes no sense") from None
    if sum(entry.size for entry in result.values() if entry.is_deflated) > RATIO * len(data) + SLACK:
        raise broken(f"its packed entries grow to more than {RATIO} times its size")
    return result


def unpacked(data: mmap.mmap, entry: Entry) -> memoryview:
    """The unpacked bytes of an entry. If the entry is not packed, they are a view of the file itself."""
    content_view = memoryview(data)[entry.start : entry.start + entry.packed_size]
    if not entry.is_deflated:
        return content_view
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(content_view, entry.size + 1)
    except zlib.error:
        raise broken("an entry cannot be unpacked") from None
    if len(content) != entry.size:
        raise broken("a packed entry has another size than it claims")
    return memoryview(content)


def _list(data: mmap.mmap) -> tuple[int, int, int]:
    """The number of entries, and the positions where their list begins and ends."""
    place = data.rfind(b"PK\5\6", max(len(data) - WHOLE.size - 0xFFFF, 0))
    if place < 0:
        raise broken("its end is missing")
    _, disk, first, disk_count, count, size, start, comment = WHOLE.unpack_from(data, place)
    if place + WHOLE.size + comment != len(data) or disk or first or disk_count != count:
        raise broken("its end makes no sense")
    end = place
    if place >= PLACE.size and data[place - PLACE.size : place - PLACE.size + 4] == b"PK\6\7":
        _, _, end, _ = PLACE.unpack_from(data, place - PLACE.size)
        mark, rest, *_, disk_count, long_count, long_size, long_start = LONG_WHOLE.unpack_from(data, end)
        if mark != b"PK\6\6" or end + 12 + rest != place - PLACE.size or disk_count != long_count:
            raise broken("its end makes no sense")
        numbers = ((count, long_count, 0xFFFF), (size, long_size, ALL_ONES), (start, long_start, ALL_ONES))
        if any(short not in (long, placeholder) for short, long, placeholder in numbers):
            raise broken("its end says two things")
        count, size, start = long_count, long_size, long_start
    if start + size != end:
        raise broken("its list of entries is not where it should be")
    return count, start, end


@no_type_check  # here and below: checks of struct's numbers would be slow for many entries
def _listed(data: mmap.mmap, count: int, start: int, end: int) -> Iterator[tuple[str, Entry]]:
    """Each entry of the list between `start` and `end`, after a check against the header at the entry's own place."""
    spans, position = [], start
    for _ in range(count):
        fields = LISTING.unpack_from(data, position)
        mark, _, _, flags, method, _, _, _, packed_size, size, letters, extra, comment, *_, place = fields
        name = data[position + LISTING.size : position + LISTING.size + letters]
        position += LISTING.size + letters
        size, packed_size, place = _long(data[position : position + extra], size, packed_size, place)
        position += extra + comment
        if mark != b"PK\1\2" or position > end:
            raise broken("its list of entries makes no sense")
        if flags & ENCRYPTION:
            raise Fault("is encrypted, and the zoo has no password: write it without encryption")
        if method not in (0, zlib.DEFLATED) or (method == 0 and packed_size != size):
            raise broken("an entry is packed in another way than torch's")
        begin = _begin(data, place, name, flags, method, packed_size, size)
        spans.append((place, begin + packed_size))
        yield _safe(name.decode()), Entry(begin, packed_size, size, method != 0)
    spans = [(0, 0), *sorted(spans), (start, end)]
    if position != end or any(second[0] < first[1] for first, second in itertools.pairwise(spans)):
        raise broken("its entries overlap")


@no_type_check
def _long(extra: bytes, *numbers: int) -> list[int]:
    """The numbers of an entry. Numbers of 64 bits come from its extra field, which is a row of (kind, size, bytes)."""
    long_count, result = numbers.count(ALL_ONES), list(numbers)
    while long_count and extra:
        kind, size = struct.unpack_from("<2H", extra)
        if kind == 1:
            long = iter(struct.unpack_from(f"<{long_count}Q", extra[: 4 + size], 4))
            return [next(long) if number == ALL_ONES else number for number in numbers]
        extra = extra[4 + size :]
    return result


@no_type_check
def _begin(data: mmap.mmap, place: int, name: bytes, flags: int, method: int, packed_size: int, size: int) -> int:
    """The position of the bytes of an entry. Its own header is at `place` and must agree with the list."""
    fields = LOCAL.unpack_from(data, place)
    mark, _, local_flags, local_method, *_, local_packed_size, local_size, letters, extra = fields
    begin = place + LOCAL.size + letters + extra
    if (
        mark != b"PK\3\4"
        or data[place + LOCAL.size : place + LOCAL.size + letters] != name
        or local_method != method
        or local_flags != flags
        or (local_packed_size, local_size)
        not in ((packed_size, size), (ALL_ONES, ALL_ONES), *([(0, 0)] if flags & SIZES_BEHIND else []))
    ):
        raise broken("an entry is not what the list says")
    return begin


@no_type_check
def _safe(name: str) -> str:
    """The name of an entry, unchanged. A name that leads out of the archive shows that torch did not write it."""
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise broken("the name of an entry leads out of it")
    return name
