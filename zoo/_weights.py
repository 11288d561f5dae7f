"""Weights as named arrays: safetensors keyed by field path, `network.stages.0.blocks.1.depthwise.weight`."""

import contextlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ._entry import line
from ._files import is_pickle

Model = TypeVar("Model")
Leaf = jax.Array | jax.ShapeDtypeStruct
FAULTS = 20  # that an error lists
DTYPES = re.compile("F16|BF16|F32|F64|[IU](8|16|32|64)|BOOL")  # whole numbers are counters of training


def named_leaves(model: Any, state: eqx.nn.State) -> dict[str, Leaf]:
    """Every parameter of `model` and every array of `state`, by field path. A skeleton's leaves are shapes."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_index):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if _is_index(leaf):
            leaves[name] = state.get(leaf)
        elif eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
            leaves[name] = leaf
    return leaves


def fill(model: Model, state: eqx.nn.State, values: Callable[[str], np.ndarray]) -> tuple[Model, eqx.nn.State]:
    """The skeleton `model` and `state` with `values(name)` at each leaf."""

    arrays, structure = jax.tree.flatten(state)  # state.set takes no array for a shape under a mesh that is set
    places = {id(leaf): place for place, leaf in enumerate(arrays)}

    def value(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if _is_index(leaf):
            shape = state.get(leaf)
            arrays[places[id(shape)]] = jnp.asarray(values(name), shape.dtype)
            return leaf
        return jnp.asarray(values(name), leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf

    model = jax.tree_util.tree_map_with_path(value, model, is_leaf=_is_index)
    return model, jax.tree.unflatten(structure, arrays)


def check(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str, faults: Sequence[str] = ()
) -> None:
    """Raises one ValueError that lists the first misshapen arrays of `where`, `faults`, missing and surplus arrays."""
    misshapen = [
        f"{name} is {tuple(found[name])} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    faults = [*misshapen, *faults, *(f"{name} is missing" for name in wanted if name not in found)]
    faults += [f"{name} is surplus" for name in found if name not in wanted]
    if faults:
        more = f"; and {len(faults) - FAULTS} more" if len(faults) > FAULTS else ""
        raise ValueError(f"{where} does not fit the model: {'; '.join(map(line, faults[:FAULTS]))}{more}.")


def check_types(dtypes: Iterable[str], where: str) -> None:
    """Raises ValueError when the file `where` has arrays in a type that the zoo does not read."""
    if odd := sorted(dtype for dtype in dtypes if not DTYPES.fullmatch(dtype)):
        given = line(", ".join(odd))
        raise ValueError(f"{where} holds arrays in {given}: convert them to float32, float16 or bfloat16.")


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of a safetensors file, each read when it is asked for. Raises ValueError for a broken file."""

    def __init__(self, path: str | os.PathLike):
        self.path = str(path)
        try:
            self._file = safe_open(path, framework="numpy")
        except SafetensorError as error:
            raise ValueError(_broken(pathlib.Path(path), error)) from None
        slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
        check_types({each.get_dtype() for each in slices.values()}, self.path)
        self.shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _broken(path: pathlib.Path, error: SafetensorError) -> str:
    """The sentence about a file that is not safetensors."""
    with open(path, "rb") as file:
        head = file.read(4)
    if is_pickle(head):
        return f"{path} is a pickle, which can run any program when it is opened: get the weights as safetensors."
    # In the Hub's cache the path is a link, and it is the file behind it that has to go
    fault = line(str(error))
    return f"{path} is not a whole safetensors file ({fault}): delete {path.resolve()} and fetch or copy it again."


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file. Raises OSError when it cannot be written."""
    try:
        save_file(dict(arrays), path, metadata={"format": "jax"})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends well, and is removed otherwise.

    Raises FileNotFoundError when the folder does not exist, and OSError when it cannot be written.
    """
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path.parent} is not a folder, so {path.name} cannot be written there: create it first."
        )
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_index(leaf) -> bool:
    return isinstance(leaf, eqx.nn.StateIndex)
