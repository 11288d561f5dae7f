"""The arrays of a torch file, read without torch and without running anything.

Since torch 1.6 such a file is a zip archive: `name/data.pkl` describes the content, and `name/data/0`, `1`, ... are the
storages. Before that it was a row of pickles, the fourth of which describes the content. The storages follow them, each
after the count of its numbers.
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

HEAD, PICKLE = 1 << 12, 1 << 26  # the most bytes of a pickle before the content, and of the content's
ARRAYS, BRANCHES, VALUES = 1 << 16, 1 << 17, 1 << 22  # the most arrays, dictionaries and lists, and values in these
DEPTH, LETTERS = 64, 1000  # of the name of an array
PLAIN = (dict, list, tuple, str, int, float, bool, type(None))  # types of settings
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of a file from before torch 1.6
TAR = b"ustar"
ORDER = "was written on a machine with another order of bytes: save it anew on a usual one"
Storages = Callable[[str], memoryview]  # the bytes of a storage by its key


class Leaf(NamedTuple):
    """An array of a file: its shape, its dtype as safetensors calls it, `BF16`, and the function that reads it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def torch_file(path: pathlib.Path) -> tuple[dict[str, Leaf], Callable[[], dict[Any, Any]]]:
    """The arrays in a torch file by their keys, joined by dots, and the function that returns its settings.

    Raises ValueError with one sentence for any other file.
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
    """Turns a Fault into a ValueError whose sentence begins with the path."""
    try:
        yield
    except Fault as fault:
        raise ValueError(f"{path} {fault}.") from None


def _zip(data: mmap.mmap) -> tuple[Any, Storages]:
    """The content of an archive, and the function that returns the bytes of a storage."""
    members = entries(data)
    roots = [name.removesuffix("data.pkl") for name in members if name.rpartition("/")[2] == "data.pkl"]
    if not roots:
        raise Fault("is a zip archive that torch did not write: it has no data.pkl")
    root = roots[0]
    if len(roots) > 1 or not all(name.startswith(root) for name in members):
        raise broken("it has more than one folder")
    if f"{root}constants.pkl" in members:
        raise Fault("is a program of TorchScript: save its state_dict() with torch.save")
    order = members.get(f"{root}byteorder")
    if order is not None and bytes(unpacked(data, order)[:8]) != b"little":
        raise Fault(ORDER)

    @no_type_check
    def storage(name):
        mark, kind, key, _, count = name
        description = storage_of(kind, key, count)
        entry = members.get(f"{root}data/{key}")
        if mark != "storage" or entry is None or count * np.dtype(description.dtype).itemsize > entry.size:
            raise broken("a storage is missing or smaller than it should be")
        return description

    pickle = members[f"{root}data.pkl"]
    if pickle.size > PICKLE:
        raise Fault(
            f"has a pickle of {pickle.size} bytes beside its storages, more than any model needs: do not trust it"
        )
    content, _ = unpickle(bytes(unpacked(data, pickle)), storage)
    return content, lambda key: unpacked(data, members[f"{root}data/{key}"])


def _row(data: mmap.mmap) -> tuple[Any, Storages]:
    """The content of a row of pickles, and the function that returns the bytes of a storage."""
    storages_by_key: dict[str, Storage] = {}

    @no_type_check
    def storage(name):
        mark, kind, key, _, count, view = name
        first_storage = storages_by_key.setdefault(key, storage_of(kind, key, count))
        if mark != "storage" or first_storage != storage_of(kind, key, count):
            raise broken("a storage is two things")
        if view is None:
            return first_storage
        _, start, size = view
        if sum(whole(start, size)) > count:
            raise broken("a part of a storage lies outside of it")
        return first_storage._replace(start=start, count=size)

    position = 0

    def next_pickle(max_bytes: int) -> Any:
        nonlocal position
        content, length = unpickle(data[position : position + max_bytes], storage)
        position += length
        return content

    if next_pickle(HEAD) != MAGIC or next_pickle(HEAD) != PROTOCOL:
        raise Fault("is a pickle that torch did not write: get the weights as safetensors")
    system, content, keys = next_pickle(HEAD), next_pickle(PICKLE), next_pickle(PICKLE)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Fault(ORDER)
    places = _places(data, position, keys, storages_by_key)
    return content, lambda key: memoryview(data)[places[key]]


def _places(data: mmap.mmap, position: int, keys: Any, storages: Mapping[str, Storage]) -> dict[str, slice]:
    """The slice of the file that each storage takes. They lie in the order of `keys` from `position` on."""
    places: dict[str, slice] = {}
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise broken("its list of storages is another than its arrays need")
    for key in keys:
        start, storage = position + 8, storages[key]
        position = start + storage.count * np.dtype(storage.dtype).itemsize
        if data[start - 8 : start] != struct.pack("<q", storage.count) or position > len(data):
            raise broken("a storage is missing or smaller than it should be")
        places[key] = slice(start, position)
    return places


# From the content of a file to its arrays


@no_type_check
def _arrays(content):
    """The arrays in nested dictionaries, lists and tuples, each with its keys, joined by dots."""
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
    """The arrays by their names. An array that is the whole content has the name ""."""
    leaves: dict[str, Leaf] = {}
    for name, array in _arrays(content):
        if name in leaves:
            raise Fault(f"holds two arrays whose keys are {line(name)!r} when they are joined by dots")
        if len(leaves) == ARRAYS:
            raise Fault(f"holds more than {ARRAYS} arrays, more than any model: do not trust it")
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
    """The nested dictionaries and lists with the numbers, texts and None in them. Other values are left out of a
    dictionary, and are None in a list. `_arrays` has checked before that the content is neither deep nor large."""

    def plain(value) -> Any:
        if type(value) is dict:
            return {key: plain(child) for key, child in value.items() if type(child) in PLAIN}
        if type(value) in (list, tuple):
            return [plain(child) if type(child) in PLAIN else None for child in value]
        return value

    return plain(content) if type(content) is dict else {}


def _read(path: pathlib.Path, storages: Storages, tensor: Tensor) -> np.ndarray:
    """Reads the numbers of an array from the file."""
    dtype = np.dtype(tensor.dtype)
    start = tensor.storage.start * np.dtype(tensor.storage.dtype).itemsize + tensor.offset * dtype.itemsize
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
    with _said_of(path):
        return np.ndarray(tensor.shape, dtype, storages(tensor.storage.key), start, strides).copy()


@functools.cache
def _letters(dtype: str) -> str:
    """The name of a dtype in safetensors: F32, BF16, I64, BOOL."""
    return re.sub("(?<=[fiuc])(loat|nt|int|omplex)", "", dtype).upper()
