"""The arrays of a torch file, read without torch and without running anything.

Since torch 1.6 such a file is a zip archive: `name/data.pkl` says what it holds, and `name/data/0`, `1`, ... are the
storages. Before that it was a row of pickles, the fourth of which says what the file holds, and then the storages, each
behind the count of its numbers.
"""

import contextlib
import functools
import mmap
import pathlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, no_type_check

import ml_dtypes  # noqa: F401, which gives NumPy bfloat16
import numpy as np

from ._archive import Fault, broken, entries, unpacked
from ._files import line
from ._pickle import unpickle
from ._tensors import Array, Storage, Tensor, storage_of, whole

HEAD, PICKLE = 1 << 12, 1 << 26  # bytes of a pickle, of one in front of the content and of the content
ARRAYS, BRANCHES, VALUES = 1 << 16, 1 << 17, 1 << 22  # that a file holds: dictionaries and lists, and what they hold
DEPTH, LETTERS = 64, 1000  # of the name of an array
PLAIN = (dict, list, tuple, str, int, float, bool, type(None))  # of settings
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of a file from before torch 1.6
TAR = b"ustar"
ORDER = "was written on a machine with another order of bytes: save it anew on a usual one"
Storages = Callable[[str], memoryview]  # the bytes of a storage by its key


class Leaf(NamedTuple):
    """An array of a file: its shape, its dtype as safetensors calls it, `BF16`, and the function that reads it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def torch_file(path: pathlib.Path) -> tuple[dict[str, Leaf], Callable[[], dict[Any, Any]]]:
    """The arrays in a torch file by their keys, joined by dots, and the function that gives its settings.

    Raises ValueError with one sentence for all else.
    """
    with _said_of(path):
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if data[257:262] == TAR:
            raise Fault("is a tar archive, as torch 0.1 wrote: load it with torch, and save it anew")
        content, storages = (_zip if data[:2] == b"PK" else _row)(data)
        return _leaves(content, functools.partial(_read, path, storages)), functools.partial(_settings, content)


@contextlib.contextmanager
def _said_of(path: pathlib.Path) -> Iterator[None]:
    """Makes a sentence of a fault."""
    try:
        yield
    except Fault as fault:
        raise ValueError(f"{path} {fault}.") from None


def _zip(data: mmap.mmap) -> tuple[Any, Storages]:
    """What an archive holds, and the function that gives the bytes of a storage."""
    listed = entries(data)
    roots = [name.removesuffix("data.pkl") for name in listed if name.rpartition("/")[2] == "data.pkl"]
    if not roots:
        raise Fault("is a zip archive, and none that torch wrote: it has no data.pkl")
    root = roots[0]
    if len(roots) > 1 or not all(name.startswith(root) for name in listed):
        raise broken("it has more than one folder")
    if f"{root}constants.pkl" in listed:
        raise Fault("is a program of TorchScript: save its state_dict() with torch.save")
    order = listed.get(f"{root}byteorder")
    if order is not None and bytes(unpacked(data, order)[:8]) != b"little":
        raise Fault(ORDER)

    @no_type_check
    def storage(name):
        mark, kind, key, _, count = name
        held = storage_of(kind, key, count)
        entry = listed.get(f"{root}data/{key}")
        if mark != "storage" or entry is None or count * np.dtype(held.dtype).itemsize > entry.size:
            raise broken("a storage is missing or smaller than it should be")
        return held

    pickled = listed[f"{root}data.pkl"]
    if pickled.size > PICKLE:
        raise Fault(f"has a pickle of {pickled.size} bytes beside its storages, as no model needs: do not trust it")
    content, _ = unpickle(bytes(unpacked(data, pickled)), storage)
    return content, lambda key: unpacked(data, listed[f"{root}data/{key}"])


def _row(data: mmap.mmap) -> tuple[Any, Storages]:
    """What a row of pickles holds, and the function that gives the bytes of a storage."""
    held: dict[str, Storage] = {}

    @no_type_check
    def storage(name):
        mark, kind, key, _, count, view = name
        made = held.setdefault(key, storage_of(kind, key, count))
        if mark != "storage" or made != storage_of(kind, key, count):
            raise broken("a storage is two things")
        if view is None:
            return made
        _, start, size = view
        if sum(whole(start, size)) > count:
            raise broken("a part of a storage lies outside of it")
        return made._replace(start=start, count=size)

    position = 0

    def following(most: int) -> Any:
        nonlocal position
        content, length = unpickle(data[position : position + most], storage)
        position += length
        return content

    if following(HEAD) != MAGIC or following(HEAD) != PROTOCOL:
        raise Fault("is a pickle, and none that torch wrote: get the weights as safetensors")
    system, content, keys = following(HEAD), following(PICKLE), following(PICKLE)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Fault(ORDER)
    places = _places(data, position, keys, held)
    return content, lambda key: memoryview(data)[places[key]]


def _places(data: mmap.mmap, position: int, keys: Any, held: Mapping[str, Storage]) -> dict[str, slice]:
    """Where each storage lies: they stand in the order of `keys` from `position` on."""
    places: dict[str, slice] = {}
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(held):
        raise broken("its list of storages is another than its arrays need")
    for key in keys:
        start, storage = position + 8, held[key]
        position = start + storage.count * np.dtype(storage.dtype).itemsize
        if data[start - 8 : start] != struct.pack("<q", storage.count) or position > len(data):
            raise broken("a storage is missing or smaller than it should be")
        places[key] = slice(start, position)
    return places


# From what a file says to its arrays


@no_type_check
def _arrays(content):
    """Each array of nested dictionaries, lists and tuples, and its keys in them, joined by dots."""
    branches = values = 0

    def walk(value, name, depth):
        nonlocal branches, values
        if depth > DEPTH or len(name) > LETTERS:
            raise Fault(f"is nested deeper than {DEPTH} levels, or has keys beyond {LETTERS} letters: do not trust it")
        if type(value) in (Tensor, Array):
            yield name, value
            return
        branches, values = branches + 1, values + len(value)
        if branches > BRANCHES or values > VALUES:
            raise Fault("holds more dictionaries, lists or values in them than any model does: do not trust it")
        for key, child in value.items() if type(value) is dict else enumerate(value):
            if type(child) in (Tensor, Array, dict, list, tuple):
                key = key.decode("latin1") if type(key) is bytes else key
                yield from walk(child, f"{name}.{key}" if name else str(key), depth + 1)

    if type(content) in (Tensor, Array, dict, list, tuple):
        yield from walk(content, "", 0)


def _leaves(content: Any, read: Callable[[Tensor], np.ndarray]) -> dict[str, Leaf]:
    """The arrays by their names. One that stands alone has the name ""."""
    leaves: dict[str, Leaf] = {}
    for name, array in _arrays(content):
        if name in leaves:
            raise Fault(f"holds two arrays whose keys are {line(name)!r} when they are joined by dots")
        if len(leaves) == ARRAYS:
            raise Fault(f"holds more than {ARRAYS} arrays, as no model does: do not trust it")
        if type(array) is Tensor:
            leaves[name] = Leaf(array.shape, _letters(array.dtype), functools.partial(read, array))
        elif array.values is not None:
            native = array.values.dtype.newbyteorder("=")
            leaves[name] = Leaf(
                array.values.shape, _letters(native.name), functools.partial(array.values.astype, native, "C")
            )
    return leaves


@no_type_check
def _settings(content) -> dict[Any, Any]:
    """The numbers, texts and None in nested dictionaries and lists, and these; what is none of them is left out of a
    dictionary, and None in a list. `_arrays` has been through it before, and found it neither deep nor large."""

    def plain(value) -> Any:
        if type(value) is dict:
            return {key: plain(child) for key, child in value.items() if type(child) in PLAIN}
        if type(value) in (list, tuple):
            return [plain(child) if type(child) in PLAIN else None for child in value]
        return value

    return plain(content) if type(content) is dict else {}


def _read(path: pathlib.Path, storages: Storages, tensor: Tensor) -> np.ndarray:
    """The numbers of an array, taken out of the file."""
    dtype = np.dtype(tensor.dtype)
    start = tensor.storage.start * np.dtype(tensor.storage.dtype).itemsize + tensor.offset * dtype.itemsize
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
    with _said_of(path):
        return np.ndarray(tensor.shape, dtype, storages(tensor.storage.key), start, strides).copy()


@functools.cache
def _letters(dtype: str) -> str:
    """safetensors' name of a dtype: F32, BF16, I64, BOOL."""
    return re.sub("(?<=[fiuc])(loat|nt|int|omplex)", "", dtype).upper()
