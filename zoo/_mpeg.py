"""Reads MP3 files frame by frame: finds the recordings that were joined in a file, and counts the frames of each.

The first frame of a recording may hold a count of frames ("Xing", "Info" or "VBRI") instead of sound. libsndfile's
decoder stops at that count. Without a count it stops at a guess from the sizes of the file and of the first frame. This
module counts the frames: it corrects a count, and without one lets the file seem so large that the guess is large
enough.
"""

import dataclasses
import functools
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple, no_type_check

from ._view import File, Link, Part, View, bytes_at

BITRATES = {  # kbit/s, by MPEG-1 and layer
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
BITRATES[False, 3] = BITRATES[False, 2]
HEAD = 64  # bytes of a frame that show whether it holds a count
SEARCH = 1 << 16  # bytes within which the first frame must begin


class Frame(NamedTuple):
    length: int  # bytes
    kind: tuple  # what frames of one recording have in common
    count_at: int  # where a count would lie


@functools.lru_cache(4096)
@no_type_check
def frame(head: bytes) -> Frame | None:
    """The frame that begins with these 4 bytes; None if none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)  # version: 0 is MPEG-2.5, 2 is MPEG-2, 3 is MPEG-1
    rate, index, padding = head[2] >> 2 & 3, head[2] >> 4, head[2] >> 1 & 1
    if version == 1 or layer == 4 or rate == 3 or index in (0, 15):
        return None
    bits = 1000 * BITRATES[version == 3, layer][index]
    hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    mono = head[3] >> 6 == 3
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4
    else:
        length = (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding
    side = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[version == 3, mono]
    return Frame(length, (version, layer, hertz, mono, index if layer < 3 else 0), 4 + side)


@no_type_check
def id3_size(head: bytes) -> int:
    """The size of the ID3v2 tag that begins with these 10 bytes, 0 if none does."""
    if not re.match(rb"ID3[\x02-\x04][^\xff].[\x00-\x7f]{4}", head, re.DOTALL):
        return 0
    size = functools.reduce(lambda sum, byte: sum << 7 | byte, head[6:10], 0)
    return 10 + size + (10 if head[5] & 0x10 else 0)


@dataclasses.dataclass
class Recording:
    """Consecutive frames of one kind: they fill `stretches` of the file, without the data between them."""

    head: bytes  # of its first frame
    kind: tuple
    counter: tuple[int, int] | None = None  # start and end of the frame with the count
    count: int | None = None  # the number in that frame
    frames: int = 0
    stretches: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    whole: bool = True  # whether the last frame is complete

    @no_type_check  # a check at each frame takes longer than all else
    def add(self, start: int, end: int) -> None:
        self.frames += 1
        if self.stretches and self.stretches[-1][1] == start:
            start = self.stretches.pop()[0]
        self.stretches.append((start, end))


def links(file: File, start: int, end: int) -> list[Link]:
    """The recordings from `start` on, each decoded to its last frame; none if this is no MPEG audio."""
    return [_link(file, recording) for recording in _recordings(file, start, end) if recording.frames]


def _recordings(file: File, start: int, end: int) -> Iterator[Recording]:
    """The recordings in order. A new one begins at a frame with a count or of another kind; other data are skipped."""
    end = _before_tags(file, start, end)
    at, recording = _next(file, start, min(start + SEARCH, end), end), None
    while at is not None:
        head = bytes_at(file, at, HEAD)
        current = frame(head[:4])
        is_same_kind = recording is not None and current is not None and current.kind == recording.kind
        if current is None or not (is_same_kind or _confirmed(file, at, end)):
            at = _next(file, at + (id3_size(head) or 1), end, end)
            continue
        if at + current.length > end:
            if recording is not None and is_same_kind:
                recording.whole = False
            break
        is_count, count = _count(head, current)
        if recording is None or is_count or not is_same_kind:
            if recording is not None:
                yield recording
            counter = (at, at + current.length) if is_count else None
            recording = Recording(head[:4], current.kind, counter, count)
        if not is_count:
            recording.add(at, at + current.length)
        at += current.length
    if recording is not None:
        yield recording


def _next(file: File, start: int, stop: int, end: int) -> int | None:
    """The first frame that begins between `start` and `stop`, in a file that holds frames up to `end`."""
    while start < stop:
        block = bytes_at(file, start, min(SEARCH, end - start))
        next_start = start + max(len(block) - 3, 1)
        for match in re.finditer(rb"(?=ID3[\x02-\x04]|\xff[\xe0-\xff])", block):
            place = start + match.start()
            if place >= stop:
                return None
            if size := id3_size(bytes_at(file, place, 10)):
                next_start, stop = place + size, max(stop, place + size)
                break
            if _confirmed(file, place, end):
                return place
        start = next_start
    return None


@no_type_check
def _confirmed(file: File, at: int, end: int) -> bool:
    """Whether a frame begins at `at` and is followed by two of its kind, or by the end."""
    kind = None
    for _ in range(3):
        current = frame(bytes_at(file, at, min(4, end - at)))
        if current is None or current.kind != (kind or current.kind):
            return False
        kind, at = current.kind, at + current.length
        if at >= end:
            return at == end
    return True


def _before_tags(file: File, start: int, end: int) -> int:
    """The position of the first tag at the end of a file: ID3v1, APE or Lyrics3."""
    for _ in range(4):
        foot = bytes_at(file, max(end - 128, start), min(128, end - start))
        if foot.startswith(b"TAG") and len(foot) == 128:
            size = 128
        elif foot[-32:-24] == b"APETAGEX":
            size, flags = struct.unpack("<I4xI", foot[-20:-8])
            size += 32 * (flags >> 31)
        elif foot.endswith(b"LYRICS200") and foot[-15:-9].isdigit():
            size = int(foot[-15:-9]) + 15
        else:
            break
        end = max(end - size, start)
    return end


@no_type_check
def _count(head: bytes, current: Frame) -> tuple[bool, int | None]:
    """Whether a frame holds a count instead of sound, and the number of frames that it states."""
    if current.kind[1] != 3:
        return False, None
    mark = head[current.count_at : current.count_at + 12]
    if mark[:4] in (b"Xing", b"Info"):
        return True, int.from_bytes(mark[8:12], "big") if mark[7] & 1 else None
    if head[36:40] == b"VBRI":
        return True, int.from_bytes(head[50:54], "big")
    return False, None


def _link(file: File, recording: Recording) -> Link:
    """A recording with a correct count in front. A count that is too high by 1 may include its own frame."""
    count, frames = recording.count or 0, recording.frames
    is_cut = count > frames + 1 or (not recording.whole and (count == 0 or count > frames))
    first_frame = frame(recording.head)
    assert first_frame is not None
    counter: list[Part] = []
    if recording.counter is not None and count:
        start, end = recording.counter
        place = start + first_frame.count_at
        if bytes_at(file, place, 4) in (b"Xing", b"Info"):  # its other entries, such as silence at both ends, stay
            sizes = struct.pack(">II", frames, end - start + sum(last - first for first, last in recording.stretches))
            sizes = sizes[: 8 if bytes_at(file, place + 7, 1)[0] & 2 else 4]
            counter = [(start, place + 8), sizes, (place + 8 + len(sizes), end)]
    surplus = 0 if counter else 2 * frames * first_frame.length + (1 << 12)  # so that the guess is not too small
    return Link(View(file, [*counter, *recording.stretches], surplus), is_cut, has_count=bool(counter))
