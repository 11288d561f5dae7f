"""A file's arrays by name, whatever wrote it: safetensors, torch, or Flax."""

import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from ._bundle import is_bundle
from ._files import is_torch
from ._flax import read_train_state
from ._weights import Arrays, ArraysByName, model_arrays


class View(ArraysByName):
    """Arrays of other mappings under other names: `names` has for each the mapping and the key there."""

    def __init__(self, names: Mapping[str, tuple[ArraysByName, str]]):
        self._names = names

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By name; nothing is read where the mappings know them."""
        known = {id(arrays): shapes_of(arrays) for arrays, _ in self._names.values()}
        return {name: known[id(arrays)][key] for name, (arrays, key) in self._names.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        arrays, key = self._names[name]
        return arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def shapes_of(arrays: ArraysByName) -> dict[str, tuple[int, ...]]:
    """The shape of each array, by name."""
    shapes = getattr(arrays, "shapes", None)
    return dict(shapes) if shapes is not None else {name: array.shape for name, array in arrays.items()}


def open_file(path: pathlib.Path) -> tuple[str, ArraysByName]:
    """Which format a file of weights has, "safetensors", "torch", "tensorflow" or "flax", and its arrays.

    Raises FileNotFoundError, and ValueError for a folder and for a file that none of these wrote, or not whole.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: name a file of weights, path/to/checkpoint_123 say.") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder: name the checkpoint in it, path/to/checkpoint_123.") from None
    if is_bundle(path):
        return "tensorflow", Arrays(path)
    if is_torch(head):
        return "torch", Arrays(path)
    if path.suffix == ".safetensors" or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32):
        return "safetensors", Arrays(path)
    return "flax", read_train_state(path)


def open_files(file: str | tuple[str, ...], fetch: Callable[[str], pathlib.Path]) -> ArraysByName:
    """The arrays of one file, or of several: then a name begins with that of its file, without the suffix, and a dot.

    `fetch` gives a file's path. Raises ValueError for a broken file, and what `fetch` raises.
    """
    if isinstance(file, str):
        return model_arrays(fetch, file)
    opened = {pathlib.PurePosixPath(each).stem: Arrays(fetch(each)) for each in file}
    return View({f"{stem}.{key}": (arrays, key) for stem, arrays in opened.items() for key in arrays})
