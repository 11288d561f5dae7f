"""Words of messages: numbers with their noun, lists, and names that a line cannot hold."""

from collections.abc import Sequence

from zoo.tools import line


def counted(number: int, noun: str) -> str:
    """ "1 file", "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Sequence[str], count: int = 10) -> str:
    """The first so many names, and how many more there are."""
    rest = len(names) - count
    return line(", ".join(map(shown, names[:count])), 1000) + (f" and {rest} more" if rest > 0 else "")


def shown(name: str) -> str:
    """The name as one line that any terminal prints: line breaks and bytes that are no characters by their codes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in name)
