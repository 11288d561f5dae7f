"""The sound in a file, where the headers of the file may be wrong about it.

The length in a header is only a claim. Writers that cannot go back leave a placeholder or 0, recorders die before they
fill the length in, copies end early, and recordings are joined end to end. libsndfile trusts the header, and stops at
the end that the first header claims. This module therefore divides a file into links, and libsndfile decodes each link
whole. If a claim is wrong, the link has the right length in its place.
"""

import itertools
import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, no_type_check

from . import _mpeg
from ._flac import flac_links
from ._view import File, Link, Part, View, bytes_at, find, numbers_at

PADDING = 8  # up to this number of bytes behind the sound are padding
ZEROS = 1 << 16  # bytes that are read at once


def links(file: File) -> list[Link]:
    """The stretches of sound in a seekable file, in order. A file of an unknown format is one link, unchanged."""
    start, end = behind_id3(file), file.seek(0, os.SEEK_END)
    result: list[Link] = []
    while container := _container(file, start):
        stop = container.size and start + container.size(file, start)
        if not stop or not start < stop < end or not _container(file, stop):
            stop = end
        result += container.divide(file, start, stop) or [Link(View(file, [(start, stop)]))]
        start = stop
    return result or _mpeg.links(file, start, end) or [Link(View(file, [(0, end)]))]


@no_type_check
def _container(file: File, start: int) -> "Container | None":
    magic = bytes_at(file, start, 12)
    return next((each for each in CONTAINERS if re.match(each.magic, magic, re.DOTALL)), None)


def behind_id3(file: File) -> int:
    """The position behind the ID3 tags at the head of a file."""
    start = 0
    while size := _mpeg.id3_size(bytes_at(file, start, 10)):
        start += size
    return start


class Chunks(NamedTuple):
    """How a container writes its chunks: a name, a size, and as many bytes as the size says."""

    first: int  # the position of the first chunk
    size: str  # the format of the size in `struct`
    sound: tuple[bytes, ...]  # the possible names of the chunk with the sound
    total: int | None = 4  # the position of the size of the whole
    name: int = 4  # number of bytes in a name
    overhead: int = 0  # bytes of the name and the size that the size includes
    align: int = 2  # chunks begin at multiples of this number


RIFF = Chunks(12, "<I", (b"data",))
RIFX = RIFF._replace(size=">I")
FORM = Chunks(12, ">I", (b"SSND", b"BODY"))
CAF = Chunks(8, ">q", (b"data",), total=None, align=1)
W64 = Chunks(40, "<Q", (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a",), 16, name=16, overhead=24, align=8)


def _chunked(kind: Chunks) -> Callable[[File, int, int], list[Link]]:
    return lambda file, start, end: _chunk_links(file, start, end, kind)


def _chunk_links(file: File, start: int, end: int, kind: Chunks) -> list[Link]:
    """One link, or several if the sound is larger than the largest size that the container can express."""
    chunks = {name: (place, size) for name, place, size in _walk(file, start + kind.first, end, kind)}
    sound = next((name for name in kind.sound if name in chunks), None)
    if sound is None:
        return []
    width = struct.calcsize(kind.size)
    place, claim = chunks[sound]
    field, form, limit = place - width, kind.size, 1 << 8 * width
    total = None if kind.total is None else numbers_at(file, start + kind.total, form)[0]
    if b"ds64" in chunks:  # RF64 has its sizes in 64 bits here
        field, form, limit = chunks[b"ds64"][0] + 8, "<Q", 1 << 64
        total, claim = numbers_at(file, field - 8, "<QQ")
    actual = end - place
    claimed_end = None if total is None else start + total + (0 if kind.name == 16 else 8)
    is_placeholder = _placeholder(claim, limit)
    if claim > actual and not is_placeholder:
        whole_end = None if total == 0 or (total is not None and _placeholder(total, limit)) else claimed_end
        return [Link(View(file, [(start, end)]), is_cut=whole_end is None or whole_end > end)]
    if (
        claimed_end is not None
        and 0 <= claimed_end - place - claim < kind.align
        and _is_silent(file, place + claim, end)
    ):
        return [Link(View(file, [(start, end)]))]  # both sizes fit the sound; the space behind it is unused
    limits = max(end, claimed_end or 0) if total is not None and not _placeholder(total, limit) else end
    if not is_placeholder and _is_rest(file, place + claim, end, limits, kind):
        return [Link(View(file, [(start, end)]))]
    doubt = "" if claim == 0 or is_placeholder else _more(actual - claim, claim)
    block = _block(file, chunks)
    step = actual if actual < limit else (limit // 2) // block * block
    heads: list[Part] = [(start, field), b"", (field + struct.calcsize(form), place)]
    result = []
    for begin in range(place, end, step):
        size = min(step, end - begin)
        header_bytes = kind.overhead if form == kind.size else 0
        heads[1] = struct.pack(form, size + header_bytes)
        result.append(Link(View(file, [*heads, (begin, begin + size)]), doubt=doubt if begin == place else ""))
    return result


def _walk(file: File, at: int, end: int, kind: Chunks) -> Iterator[tuple[bytes, int, int]]:
    """The name, the position of the content and its size, for each chunk up to the sound, whose size may be wrong."""
    head = kind.name + struct.calcsize(kind.size)
    while at + head <= end:
        content = bytes_at(file, at, head)
        name, (size,) = content[: kind.name], struct.unpack(kind.size, content[kind.name :])
        size -= kind.overhead
        yield name, at + head, size
        if name in kind.sound or size < 0 or not any(name):
            return
        at += head + size + -size % kind.align


@no_type_check
def _is_rest(file: File, at: int, end: int, last: int, kind: Chunks) -> bool:
    """Whether the bytes behind the sound are chunks, tags or padding, and not sound that no header counts.

    Chunks end at `last` or before it. If the file is cut, `last` lies behind the end of the file.
    """
    if end - at <= PADDING:
        return True
    head = kind.name + struct.calcsize(kind.size)
    for place in {at, at + (-at % kind.align), at + 1}:  # some writers leave out the padding, some pad even sizes
        content = bytes_at(file, place, head)
        if re.match(rb"TAG|ID3[\x02-\x04]|APETAGEX|LYRICSBEGIN", content):
            return True
        if len(content) == head and re.match(rb"[\x20-\x7e]{4}", content) and any(content[: kind.name]):
            (size,) = struct.unpack(kind.size, content[kind.name :])
            if 0 <= size - kind.overhead <= last - place - head:
                return True
    return False


def _is_silent(file: File, at: int, end: int) -> bool:
    """Whether all bytes between the two positions are zero."""
    return all(not any(bytes_at(file, start, min(ZEROS, end - start))) for start in range(at, end, ZEROS))


@no_type_check
def _placeholder(claim: int, limit: int) -> bool:
    """Whether a writer that does not know the size writes this one: near the largest number, or near half of it."""
    return claim < 0 or any(abs(claim - edge) <= 1 << 16 for edge in (limit, limit // 2))


def _more(rest: int, claim: int) -> str:
    return f"its header counts {claim} bytes of sound, and {rest} more bytes follow, which are read, too"


def _block(file: File, chunks: dict[bytes, tuple[int, int]]) -> int:
    """The number of bytes that belong together: one sample of each channel, or a block of a compressed WAV file."""
    if b"fmt " not in chunks:
        return 1
    return max(numbers_at(file, chunks[b"fmt "][0] + 12, "<H")[0], 1)


def _aiff(file: File, start: int, end: int) -> list[Link]:
    """The links as for other chunks. They also lose the number of frames that the COMM chunk claims."""
    result = _chunk_links(file, start, end, FORM)
    common = {name: place for name, place, _ in _walk(file, start + FORM.first, end, FORM)}.get(b"COMM")
    if common is None:
        return result
    return [link._replace(view=_replaced(link.view, common + 2, b"\xff" * 4)) for link in result]


def _replaced(view: View, position: int, content: bytes) -> View:
    """A view in which `content` replaces the bytes at a position of the file."""
    parts: list[Part] = []
    for part in view.parts:
        if isinstance(part, bytes) or not part[0] <= position < part[1]:
            parts.append(part)
        else:
            parts += [(part[0], position), content, (position + len(content), part[1])]
    return View(view.file, parts)


def _au(order: str) -> Callable[[File, int, int], list[Link]]:
    def divide(file: File, start: int, end: int) -> list[Link]:
        offset, claim = numbers_at(file, start + 4, f"{order}II")
        actual = end - start - offset
        whole = Link(View(file, [(start, end)]))
        if _placeholder(claim, 1 << 32):
            return [Link(_replaced(whole.view, start + 8, b"\xff" * 4))]
        if claim > actual:
            return [whole._replace(is_cut=True)]
        if actual - claim <= PADDING:
            return [whole]
        doubt = _more(actual - claim, claim) if claim else ""
        return [Link(_replaced(whole.view, start + 8, b"\xff" * 4), doubt=doubt)]

    return divide


def _nist(file: File, start: int, end: int) -> list[Link]:
    """A SPHERE file: libsndfile reads all of its sound; the text of its header says how much there should be."""
    header = bytes_at(file, start, 1 << 14)
    size = re.match(rb"NIST_1A\s+(\d{1,9})\s", header)
    fields = dict(re.findall(rb"(sample_count|sample_n_bytes|channel_count) -i (\d{1,18})", header))
    if size is None or b"sample_count" not in fields:
        return []
    count = int(fields[b"sample_count"]) * int(fields.get(b"channel_count", 1))
    claimed_size = int(size[1]) + count * int(fields.get(b"sample_n_bytes", 1))
    return [Link(View(file, [(start, end)]), is_cut=claimed_size > end - start)]


def _ogg(file: File, start: int, end: int) -> list[Link]:
    """A link begins with the pages that begin its streams, and ends where the pages of the next link begin."""
    starts, at, beginning, has_end, is_cut = [], start, False, True, False
    while at < end:
        head = bytes_at(file, at, 27 + 255)
        if not head.startswith(b"OggS"):
            if (at := find(file, b"OggS", at, end)) < 0:
                break
            continue
        if len(head) < 27 or len(head) < 27 + head[26]:
            is_cut = True
            break
        if head[5] & 2 and not beginning:
            starts.append(at)
        beginning, has_end = bool(head[5] & 2), bool(head[5] & 4)
        at += 27 + head[26] + sum(head[27 : 27 + head[26]])
        is_cut = at > end
    doubt = "" if has_end or is_cut else "its last page is missing, so it may be cut short"
    result = [Link(View(file, [stretch])) for stretch in itertools.pairwise([*starts, end])]
    return [*result[:-1], *(link._replace(is_cut=is_cut, doubt=doubt) for link in result[-1:])]


class Container(NamedTuple):
    """A format: its first bytes, the function that divides a file, and the size by the header, if others may follow."""

    magic: bytes
    divide: Callable[[File, int, int], list[Link]]
    size: Callable[[File, int], int] | None = None


def _field(form: str, at: int, more: int) -> Callable[[File, int], int]:
    return lambda file, start: sum(numbers_at(file, start + at, form)) + more


def _caf_size(file: File, start: int) -> int:
    """The size up to the end of the sound, behind which other files may follow."""
    chunks = _walk(file, start + CAF.first, file.seek(0, os.SEEK_END), CAF)
    return max((place + size - start for _, place, size in chunks), default=0)


CONTAINERS = (
    Container(rb"RIFF....WAVE", _chunked(RIFF), _field("<I", 4, 8)),
    Container(rb"RIFX....WAVE", _chunked(RIFX), _field(">I", 4, 8)),
    Container(rb"RF64....WAVE", _chunked(RIFF), _field("<Q", 20, 8)),  # in the ds64 chunk, which comes first
    Container(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb", _chunked(W64), _field("<Q", 16, 0)),
    Container(rb"FORM....(8SVX|16SV)", _chunked(FORM), _field(">I", 4, 8)),
    Container(rb"FORM....AIF[FC]", _aiff, _field(">I", 4, 8)),
    Container(rb"caff", _chunked(CAF), _caf_size),
    Container(rb"\.snd", _au(">"), _field(">II", 4, 0)),
    Container(rb"dns\.", _au("<"), _field("<II", 4, 0)),
    Container(rb"NIST_1A", _nist),
    Container(rb"OggS", _ogg),
    Container(rb"fLaC", flac_links),
)
