"""Locks a folder for one process at a time, by a lock of the operating system, which ends with its process."""

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
    """Keeps other processes out of an existing folder during the `with` block; `name` is the file that is locked.

    Raises BlockingIOError if another process holds the lock. If the file system has no locks, prints that and goes on.
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
    """The error for a folder that another process has locked."""
    return BlockingIOError(f"{folder} is in use by another process: wait until it ends, or choose another folder.")
