"""One process at a time in a folder, by a lock of the operating system, which ends with its process in any case."""

import contextlib
import errno
import os
import pathlib
import sys
from collections.abc import Iterator

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: pathlib.Path, name: str = NAME) -> Iterator[None]:
    """Keeps other processes out of a folder that exists, while it is entered; `name` is the file that is locked.

    Raises BlockingIOError where another process is in it. Where the file system has no locks it says so, and goes on.
    """
    with open(folder / name, "ab") as file:
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy(folder) from None
        except OSError as error:
            print(
                f"{folder} cannot be locked ({error.strerror}): start no other process in it.",
                file=sys.stderr,
            )
        yield


def busy(folder: pathlib.Path) -> BlockingIOError:
    """The error of who comes second."""
    return BlockingIOError(f"{folder} is in use by another process: wait until it ends, or choose another folder.")
