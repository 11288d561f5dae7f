"""Parameters, chosen by their names: which of them are trained, in which precision, and how fast.

A name is the path of fields to an array, "network.stages.0.blocks.1.depthwise.weight". Files of weights, recipes and
these functions use the same names. A pattern is a shell pattern: "network.*" is the whole network.
"""

import fnmatch
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .abstract import AbstractFrontend


def names(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """The tree with each leaf replaced by its name. `is_leaf` is as in `jax.tree.map`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="."), tree, is_leaf=is_leaf
    )


def count(tree: Any) -> int:
    """The number of elements of all arrays of the tree; a `jax.ShapeDtypeStruct` counts as the array it describes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape"))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns; upper and lower case differ."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def freeze(model: Any, patterns: Sequence[str], *, but: Sequence[str] = ()) -> tuple[Any, Any]:
    """`parameters, rest`: the part to train and the other part; `eqx.combine(parameters, rest)` is the model.

    - `patterns`: the names of the frozen parameters. Modules under these names run in inference mode, so the running
      statistics of their BatchNorms stay unchanged.
    - `but`: exceptions from `patterns`.

    Raises ValueError for a pattern that matches no parameter, unless it names a part of the model without parameters,
    and if nothing is left to train.
    """
    check_patterns(model, patterns)
    check_patterns(model, but)

    def is_frozen(name: str) -> bool:
        return matches(name, patterns) and not matches(name, but)

    def set_inference(leaf: Any, name: str) -> Any:
        return True if name.split(".")[-1] == "inference" and is_frozen(name) else leaf

    model = jax.tree.map(set_inference, model, names(model))
    trained = jax.tree.map(lambda leaf, name: eqx.is_array(leaf) and not is_frozen(name), model, names(model))
    if not any(jax.tree.leaves(trained)):
        raise ValueError(f"`freeze` leaves nothing to train: {', '.join(patterns)}.")
    return eqx.partition(model, trained)


def check_patterns(model: Any, patterns: Sequence[str]) -> None:
    """Raises TypeError for a text in place of patterns, and ValueError for a pattern that matches no parameter, unless
    it names a part of the model without parameters."""
    parameters = jax.tree.leaves(names(eqx.filter(model, eqx.is_array)))
    parts = {name.split(".")[0] for name in parameters}
    bare_parts = [field for field in vars(model) if field not in parts]
    if isinstance(patterns, str):
        raise TypeError(f"Patterns come as a sequence of them, got the text {patterns!r}: write ({patterns!r},).")
    for pattern in patterns:
        if not any(matches(name, (pattern,)) for name in parameters) and pattern.split(".")[0] not in bare_parts:
            raise ValueError(
                f"{pattern!r} is no parameter of the model: they are called as {parameters[0]} and {parameters[-1]}, "
                "and 'network.*' is the whole network."
            )


def half(tree: Any) -> Any:
    """The tree with its parameters in bfloat16; frontends and any `eqx.nn.State` stay in float32."""

    def cast(leaf: Any) -> Any:
        return leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(cast, tree, is_leaf=lambda node: isinstance(node, AbstractFrontend | eqx.nn.State))


def layerwise(model: Any, decay: float) -> Any:
    """A factor of the learning rate for each leaf (Clark et al., 2020, arXiv:2003.10555): `decay ** depth`.

    The head has depth 0. The last stage or block of the network has depth 1, the one in front of it depth 2, and so on.
    All parts in front of the first stage, including the frontend, are deeper by one than the first stage. A stage or
    block is the first numbered part of a name, "network.stages.3". Frozen leaves of `model` may be None, as in the
    result of `freeze`.
    """
    leaves, tree = jax.tree.flatten(model, is_leaf=_is_none)
    labels = jax.tree.leaves(names(model, is_leaf=_is_none))
    stages = [_stage(name) for name in labels]
    order = {stage: index for index, stage in enumerate(dict.fromkeys(filter(None, stages)), 1)}
    factors, index = [], 0
    for leaf, name, stage in zip(leaves, labels, stages, strict=True):
        index = index if stage is None else order[stage]
        depth = len(order) + 1 - index if name.startswith(("frontend.", "network.")) else 0
        factors.append(None if leaf is None else decay**depth)
    return jax.tree.unflatten(tree, factors)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _stage(name: str) -> str | None:
    """The name of a stage of the network: the part of a parameter's name up to its first number."""
    match = re.match(r"network\.(?:[a-z]\w*\.)*?\d+(?=\.)", name)
    return match and match[0]
