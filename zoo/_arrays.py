"""The arrays of a file by name, for files of safetensors, torch, TensorFlow and Flax."""

import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from ._bundle import is_bundle
from ._files import is_torch
from ._flax import read_train_state
from ._weights import Arrays, ArraysByName, model_arrays


class View(ArraysByName):
    """Arrays of other mappings under new names. `names` maps each new name to a mapping and a key in it."""

    def __init__(self, names: Mapping[str, tuple[ArraysByName, str]]):
        self._names = names

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes by name. Nothing is read if the mappings know their shapes."""
        shapes_by_mapping = {id(arrays): shapes_of(arrays) for arrays, _ in self._names.values()}
        return {name: shapes_by_mapping[id(arrays)][key] for name, (arrays, key) in self._names.items()}

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
    """The format of a file of weights, "safetensors", "torch", "tensorflow" or "flax", and its arrays.

    Raises FileNotFoundError, and ValueError for a folder, for a file of another format, and for an incomplete file.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} does not exist: name a file of weights, such as path/to/checkpoint_123."
        ) from None
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
    """The arrays of one file or of several files.

    With several files, the name of an array begins with the name of its file, without the suffix, and a dot. `fetch`
    returns the path of a file. Raises ValueError for a broken file, and the errors of `fetch`.
    """
    if isinstance(file, str):
        return model_arrays(fetch, file)
    arrays_by_file = {pathlib.PurePosixPath(name).stem: Arrays(fetch(name)) for name in file}
    return View({f"{stem}.{key}": (arrays, key) for stem, arrays in arrays_by_file.items() for key in arrays})
