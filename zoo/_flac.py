"""FLAC files: the number of samples is read from the last frame, because the first block may be wrong about it."""

import functools
import re
from typing import no_type_check

from ._view import File, Link, Part, View, bytes_at, find

TOTAL = 18  # position of 8 bytes, whose last 36 bits are the number of samples
MASK = (1 << 36) - 1
TAIL = 1 << 18, 1 << 22  # bytes at the end of the file that hold two frames: usually, and at most


def flac_links(file: File, start: int, end: int) -> list[Link]:
    """The links of FLAC files that were joined: each link begins with the marker and a STREAMINFO block."""
    starts, at = [start], start
    while (at := find(file, b"fLaC", at + 4, end)) >= 0:
        if bytes_at(file, at + 4, 4) in (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22"):
            starts.append(at)
    return [_link(file, *stretch) for stretch in zip(starts, [*starts[1:], end], strict=True)]


def _link(file: File, start: int, end: int) -> Link:
    field = int.from_bytes(bytes_at(file, start + TOTAL, 8), "big")
    samples = _samples(file, start, end)
    if samples <= field & MASK:
        return Link(View(file, [(start, end)]), has_count=field & MASK > 0)
    total = (field & ~MASK | samples).to_bytes(8, "big")
    parts: list[Part] = [(start, start + TOTAL), total, (start + TOTAL + 8, end)]
    return Link(View(file, parts))


def _samples(file: File, start: int, end: int) -> int:
    """The number of samples up to the end of the last frame; 0 if there is no frame."""
    block, largest = (int.from_bytes(bytes_at(file, start + at, size), "big") for at, size in ((8, 2), (15, 3)))
    begin = max(start + 42, end - min(2 * largest + 16 or TAIL[0], TAIL[1]))
    tail = bytes_at(file, begin, end - begin)
    heads = (tail[match.start() : match.start() + 16] for match in re.finditer(rb"\xff[\xf8\xf9]", tail))
    frames = [stretch for head in heads if (stretch := _stretch(head, block))]
    ends = {0, *(last for _, last in frames)}  # a true frame begins where another one ends
    return max((last for first, last in frames if first in ends), default=0)


@no_type_check
def _stretch(head: bytes, block: int) -> tuple[int, int] | None:
    """The index of a frame's first sample, and the index behind its last. None if the bytes are no head of a frame."""
    if len(head) < 16 or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] >> 4 > 10 or head[3] & 1:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # a number as in UTF-8: the leading ones count its bytes
    if ones in (1, 8):
        return None
    at = 4 + max(ones, 1)
    number = functools.reduce(lambda sum, byte: sum << 6 | byte & 0x3F, head[5:at], head[4] & 0x7F >> ones)
    code = head[2] >> 4
    if code in (6, 7):
        size = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    else:
        size = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if at >= len(head) or functools.reduce(lambda sum, byte: _shifted(sum ^ byte), head[:at], 0) != head[at]:
        return None
    first = number if head[1] & 1 else number * block
    return first, first + size


@functools.cache
@no_type_check
def _shifted(byte: int) -> int:
    """One step of the checksum over a frame's head: 8 bits, polynomial 0x107."""
    for _ in range(8):
        byte = byte << 1 ^ (0x107 if byte & 0x80 else 0)
    return byte
