"""The sound files that a command line names: its files in their order, and the sound files in its folders."""

import collections
import hashlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from . import _ffmpeg

LIBSNDFILE = """wav wave bwf rf64 w64 aif aiff aifc caf au snd flac ogg oga opus spx mp3 mp2 mp1 mpga voc sph nist
iff svx 8svx 16sv sf ircam paf fap pvf avr htk mat4 mat5 mpc2k sds wavex wve xi"""
FFMPEG = """m4a m4b mp4 m4v aac wma wmv asf webm mka mkv mov avi 3gp 3g2 amr ape wv tta tak mpc ac3 eac3 dts dsf dff ra
rm alac ogv ogx mpg mpeg flv ts shn gsm"""
SUFFIXES = {f".{name}" for name in LIBSNDFILE.split()}  # formats with a header, which libsndfile reads
FOREIGN = {f".{name}" for name in FFMPEG.split()}  # other formats of sound, which FFmpeg reads


class Shard(NamedTuple):
    """One of `count` shares of the recordings, by the hashes of their names, so that machines agree without contact."""

    index: int = 0
    count: int = 1

    def has(self, file: str) -> bool:
        digest = hashlib.blake2b(os.fsencode(file), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index

    @property
    def suffix(self) -> str:
        return "" if self.count == 1 else f"-{self.index}-of-{self.count}"


def sounds(paths: Sequence[str]) -> list[str]:
    """The named files in their order, and for each folder its files with a suffix of sound, sorted; links are followed.

    With the extra `ffmpeg` these include the formats that FFmpeg reads, also films. Missing paths and other files in
    folders are reported on stderr. Raises FileNotFoundError if no path exists, and ValueError if there are no sound
    files.
    """
    missing = [path for path in paths if not os.path.exists(path)]
    if missing and len(missing) == len(paths):
        raise FileNotFoundError(" ".join(f"{path} is not a file." for path in missing))
    for path in missing:
        print(f"audax-zoo: {path} is not a file.", file=sys.stderr)
    files = [file for path in paths for file in (_search(path) if os.path.isdir(path) else [path])]
    if not files:
        raise ValueError(f"{' and '.join(paths)} {'hold' if len(paths) > 1 else 'holds'} no sound files.")
    return files


def _search(folder: str) -> list[str]:
    recordings, others = [], collections.Counter()
    suffixes = SUFFIXES | FOREIGN if _ffmpeg.installed() else SUFFIXES
    for file in _files(folder):
        suffix = pathlib.Path(file).suffix.lower()
        if suffix in suffixes:
            recordings.append(file)
        else:
            others[suffix] += 1
    if others:
        _tell(folder, others, sorted((FOREIGN - suffixes) & others.keys()))
    return sorted(str(pathlib.Path(file)) for file in recordings)


def _files(folder: str) -> list[str]:
    """All files in a folder and below it. Each folder is searched once, by its own name rather than by a link's."""
    files, folder_ids = [], set()
    folders, links = [folder], []
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in folder_ids:
                continue
            folder_ids.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            print(f"audax-zoo: {current} cannot be searched: {error.strerror}.", file=sys.stderr)
            continue
        for entry in entries:
            if os.path.isdir(entry.path):
                (links if entry.is_symlink() else folders).append(entry.path)
            elif os.path.isfile(entry.path) or not os.path.exists(entry.path):  # a broken link: reported later
                files.append(entry.path)
            else:  # a socket, or a pipe that could block for ever
                print(f"audax-zoo: {entry.path} is no regular file, and is left out.", file=sys.stderr)
    return files


def _tell(folder: str, others: collections.Counter[str], foreign: Sequence[str]) -> None:
    counts = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in others.most_common(8))
    more = f", and others of {len(others) - 8} suffixes" if len(others) > 8 else ""
    remedy = f" FFmpeg reads {', '.join(foreign)}: {_ffmpeg.EXTRA}." if foreign else ""
    print(f"audax-zoo: {folder} holds other files, which are left out: {counts}{more}.{remedy}", file=sys.stderr)
