"""Files of sound and film that libsndfile does not read: their formats, and whether they are complete."""

import re
from collections.abc import Callable
from typing import NamedTuple, no_type_check

from ._view import File, bytes_at, numbers_at

HEAD = 1 << 14  # bytes that show the format; without a header it shows by repeated first bytes of frames
BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"free", b"skip", b"wide", b"uuid", b"meta"}
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675  # of Matroska
WAV_TAGS = rb"(?:[\x22\x45\x50\x64\xff]\0|[\x60-\x63]\x01|\x70\x02|[\0\x10]\x16|[\0\x01]\x20)"  # WMA, AAC, AC-3, ...


class Media(NamedTuple):
    """A format: how its files begin, FFmpeg's name and ours, and a test whether a file ends early, if headers show it.

    `has_count` says whether the header counts the samples, `has_padding` whether it also gives the encoder's padding.
    """

    magic: bytes
    demuxer: str
    title: str
    is_cut: Callable[[File, int, int], bool] = lambda file, start, end: False
    has_count: bool = False
    has_padding: bool = False


@no_type_check
def media_of(file: File, start: int) -> Media | None:
    """The format of the data at `start`; None if it is no format that FFmpeg reads for us."""
    head = bytes_at(file, start, HEAD)
    return next((media for media in FORMATS if re.match(media.magic, head, re.DOTALL)), None)


@no_type_check
def _boxes_are_cut(file: File, start: int, end: int) -> bool:
    """Whether a box of an MPEG-4 file ends behind the file, or the one with the index is missing."""
    at, names = start, set()
    while at + 8 <= end:
        size, name = numbers_at(file, at, ">I4s")
        if size == 1:
            (size,) = numbers_at(file, at + 8, ">Q")
        size = size or end - at
        if size < 8 or not re.match(rb"[\x20-\x7e]{4}", name):
            break
        if at + size > end:
            return name in BOXES or b"moov" not in names  # an unknown name may be other data behind the last box
        names.add(name)
        at += size
    return b"moov" not in names


@no_type_check
def _elements_are_cut(file: File, start: int, end: int) -> bool:
    """Whether an element of a Matroska file ends behind the file. Elements of unknown size are searched inside."""
    at = start
    while at < end:
        head = bytes_at(file, at, 12)
        name, first = _number(head)
        size, second = _number(head[first:])
        if not first or not second:
            return False
        at += first + second
        if name not in (SEGMENT, CLUSTER) or size != (1 << 7 * second + 1) - 1:
            at += size - (1 << 7 * second)
    return at > end


@no_type_check
def _number(head: bytes) -> tuple[int, int]:
    """A number of Matroska's, with the bit that marks its length, and its number of bytes: 0 if it is invalid."""
    length = 9 - head[0].bit_length() if head and head[0] else 0
    return int.from_bytes(head[:length], "big"), length if length <= len(head) else 0


def _objects_are_cut(file: File, start: int, end: int) -> bool:
    """Whether an object of an ASF file ends behind the file."""
    at = start
    while at + 24 <= end:
        (size,) = numbers_at(file, at + 16, "<Q")
        if size < 24:  # a live stream
            return False
        at += size
    return at > end


def _riff_is_cut(file: File, start: int, end: int) -> bool:
    """Whether a part of an AVI file ends behind the file by more than its padding."""
    at = start
    while at + 8 <= end and bytes_at(file, at, 4) == b"RIFF":
        (size,) = numbers_at(file, at + 4, "<I")
        if size == 0 or size >= 0xFFFFFF00:  # the writer could not go back to enter the size
            return False
        at += 8 + size + size % 2
    return at > end + 1


FORMATS = (
    Media(
        rb"\0...(ftyp|styp|moov|wide|free|skip|pnot|uuid)|....mdat",
        "mov",
        "MPEG-4 or QuickTime",
        _boxes_are_cut,
        has_padding=True,
    ),
    Media(rb"\x1aE\xdf\xa3", "matroska", "Matroska or WebM", _elements_are_cut),
    Media(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf", "Windows Media", _objects_are_cut),
    Media(rb"RIFF....AVI ", "avi", "AVI", _riff_is_cut),
    Media(rb"FLV\x01", "flv", "Flash video"),
    Media(rb"\.RMF|\.ra\xfd", "rm", "RealMedia"),
    Media(rb"\0\0\x01\xba", "mpeg", "an MPEG programme stream"),
    Media(rb"(G.{187}){4}|(.{4}G.{187}){4}", "mpegts", "an MPEG transport stream"),
    Media(rb"(\xff[\xf0\xf1\xf8\xf9].).{5,8190}?\1", "aac", "AAC"),
    Media(rb"V[\xe0-\xff].{5,8190}?V[\xe0-\xff]", "loas", "AAC"),
    Media(rb"\x0bw...[\x58-\xff].{6,4094}?\x0bw", "eac3", "E-AC-3"),
    Media(rb"\x0bw.{6,4094}?\x0bw", "ac3", "AC-3"),
    Media(rb"\x7f\xfe\x80\x01|\xfe\x7f\x01\x80|\x1f\xff\xe8\0|\xff\x1f\0\xe8", "dts", "DTS"),
    Media(rb"DTSHDHDR", "dtshd", "DTS"),
    Media(rb"#!AMR", "amr", "AMR"),
    Media(rb"([\xd0-\xdf].{32}){8}", "gsm", "GSM"),
    Media(rb"MAC ", "ape", "Monkey's Audio", has_count=True),
    Media(rb"wvpk", "wv", "WavPack", has_count=True),
    Media(rb"TTA[12]", "tta", "True Audio", has_count=True),
    Media(rb"tBaK", "tak", "TAK", has_count=True),
    Media(rb"ajkg", "shn", "Shorten"),
    Media(rb"MP\+", "mpc", "Musepack"),
    Media(rb"MPCK", "mpc8", "Musepack"),
    Media(rb"DSD ", "dsf", "DSD", has_count=True),
    Media(rb"FRM8....(....)DSD ", "iff", "DSD"),
    Media(rb"RIFF....WAVEfmt ...." + WAV_TAGS, "wav", "WAV of an encoding that is compressed"),
    Media(rb"caff.{4}desc.{16}(?!lpcm|alac|ulaw|alaw)", "caf", "CAF of an encoding that is compressed"),
    Media(rb"OggS.{24,4000}?OggS.{24}\x80theora|OggS.{24}\x80theora", "ogg", "Ogg with video"),
)
