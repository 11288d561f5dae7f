"""A model's arrays by field path, such as `network.stages.0.blocks.1.depthwise.weight`: the keys of our files."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np

from audax_eqx import tree

from ._files import line

Model = TypeVar("Model")
Parameter = jax.Array | jax.ShapeDtypeStruct
FAULTS = 20  # the most that an error lists


def named_leaves(model: Any, state: eqx.nn.State) -> dict[str, Parameter]:
    """Every parameter of `model` and every array of `state`, by field path. A skeleton's leaves are shapes."""
    leaves = {}
    names = jax.tree.leaves(tree.names(model, is_leaf=_is_index))
    for name, leaf in zip(names, jax.tree.leaves(model, is_leaf=_is_index), strict=True):
        if _is_index(leaf):
            leaves[name] = state.get(leaf)
        elif eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
            leaves[name] = leaf
    return leaves


def fill(model: Model, state: eqx.nn.State, values: Callable[[str], np.ndarray]) -> tuple[Model, eqx.nn.State]:
    """The skeleton `model` and `state` with `values(name)` at each leaf."""

    def array(name, dtype):
        return jax.device_put(np.array(values(name), dtype))  # jnp.asarray compiles a program for each shape

    arrays, structure = jax.tree.flatten(state)  # under a mesh, state.set does not replace a shape by an array
    places = {id(leaf): place for place, leaf in enumerate(arrays)}

    def value(leaf, name):
        if _is_index(leaf):
            shape = state.get(leaf)
            arrays[places[id(shape)]] = array(name, shape.dtype)
            return leaf
        return array(name, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf

    model = jax.tree.map(value, model, tree.names(model, is_leaf=_is_index), is_leaf=_is_index)
    return model, jax.tree.unflatten(structure, arrays)


def check(
    shapes: Mapping[str, tuple[int, ...]],
    model_shapes: Mapping[str, tuple[int, ...]],
    where: str,
    faults: Sequence[str] = (),
) -> None:
    """Raises one ValueError that lists the first wrong shapes in `where`, then `faults`, missing and surplus arrays."""
    mismatches = [
        f"{name} is {tuple(shapes[name])} instead of {tuple(shape)}"
        for name, shape in model_shapes.items()
        if name in shapes and tuple(shapes[name]) != tuple(shape)
    ]
    faults = [*mismatches, *faults, *(f"{name} is missing" for name in model_shapes if name not in shapes)]
    faults += [f"{name} is surplus" for name in shapes if name not in model_shapes]
    if faults:
        more = f"; and {len(faults) - FAULTS} more" if len(faults) > FAULTS else ""
        raise ValueError(f"{where} does not fit the model: {'; '.join(map(line, faults[:FAULTS]))}{more}.")


def _is_index(leaf) -> bool:
    return isinstance(leaf, eqx.nn.StateIndex)
