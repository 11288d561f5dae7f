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
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out of the folder, which is there, while it is entered.

    Raises BlockingIOError where another process is in it. Where the file system has no locks it says so, and goes on.
    """
    with open(folder / NAME, "ab") as file:
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy(folder) from None
        except OSError as error:
            print(
                f"audax-train: {folder} cannot be locked ({error.strerror}): start no other process in it.",
                file=sys.stderr,
            )
        yield


def busy(folder: pathlib.Path) -> BlockingIOError:
    """The error of who comes second."""
    return BlockingIOError(f"{folder} is in use by another process: wait until it ends, or choose another folder.")
