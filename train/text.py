"""Text of messages: numbers with their noun, lists, and names that are safe to print."""

from collections.abc import Sequence

from zoo.tools import line


def amount(number: int, noun: str) -> str:
    """The number with its noun, like "1 file" or "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listing(names: Sequence[str], count: int = 10) -> str:
    """The first `count` names as one line, and the number of all others."""
    remainder = len(names) - count
    return line(", ".join(map(printable, names[:count])), 1000) + (f" and {remainder} more" if remainder > 0 else "")


def printable(name: str) -> str:
    """The name as one line that any terminal can print, with codes for line breaks and for bytes that are not text."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
