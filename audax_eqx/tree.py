"""Parameters by their names: which are trained, in which precision, and how fast.

A name is the path of fields to an array, "network.stages.0.blocks.1.depthwise.weight". Files of weights, recipes and
these functions spell it alike. A pattern is a shell's: "network.*" is all of the network.
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
    """The tree with the name of each leaf in its place. `is_leaf` is that of `jax.tree.map`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="."), tree, is_leaf=is_leaf
    )


def count(tree: Any) -> int:
    """How many numbers the arrays of the tree have together; a `jax.ShapeDtypeStruct` counts as its array."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape"))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns. Upper and lower case differ."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def freeze(model: Any, patterns: Sequence[str], *, but: Sequence[str] = ()) -> tuple[Any, Any]:
    """`parameters, rest`: what is trained, and what is not; `eqx.combine(parameters, rest)` is the model.

    - `patterns`: the names of what is frozen. Modules under them run in inference mode, so the running statistics of
      their BatchNorms stay as they are.
    - `but`: exceptions from `patterns`.

    Raises ValueError for a pattern that matches no parameter, unless it names a part of the model that has none, and
    where nothing is left to train.
    """
    for each in (patterns, but):
        check_patterns(model, each)

    def is_frozen(name: str) -> bool:
        return matches(name, patterns) and not matches(name, but)

    def inferring(leaf: Any, name: str) -> Any:
        return True if name.split(".")[-1] == "inference" and is_frozen(name) else leaf

    model = jax.tree.map(inferring, model, names(model))
    trained = jax.tree.map(lambda leaf, name: eqx.is_array(leaf) and not is_frozen(name), model, names(model))
    if not any(jax.tree.leaves(trained)):
        raise ValueError(f"`freeze` leaves nothing to train: {', '.join(patterns)}.")
    return eqx.partition(model, trained)


def check_patterns(model: Any, patterns: Sequence[str]) -> None:
    """Raises TypeError for a text in place of patterns, and ValueError for a pattern that matches no parameter, unless
    it names a part of the model that has none."""
    known = jax.tree.leaves(names(eqx.filter(model, eqx.is_array)))
    bare = [name for name in vars(model) if not any(each.startswith(f"{name}.") or each == name for each in known)]
    if isinstance(patterns, str):
        raise TypeError(f"Patterns come as a sequence of them, got the text {patterns!r}: write ({patterns!r},).")
    for pattern in patterns:
        if not any(matches(name, (pattern,)) for name in known) and pattern.split(".")[0] not in bare:
            raise ValueError(
                f"{pattern!r} is no parameter of the model: they are called as {known[0]} and {known[-1]}, so that "
                "'network.*' is all of the network."
            )


def half(tree: Any) -> Any:
    """The tree with its parameters in bfloat16. Frontends and an `eqx.nn.State` stay in float32."""

    def cast(leaf: Any) -> Any:
        return leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(cast, tree, is_leaf=lambda node: isinstance(node, AbstractFrontend | eqx.nn.State))


def layerwise(model: Any, decay: float) -> Any:
    """A factor of the learning rate for each leaf (Clark et al., 2020, arXiv:2003.10555): `decay ** depth`.

    The depth of the head is 0. That of the last stage or block of the network is 1, and it grows by 1 for each in front
    of it. What lies in front of them all, the frontend too, is deeper by one than the first. A stage or block is the
    first numbered part of a name, "network.stages.3". `model` may have None for what is frozen, as `freeze` gives it.
    """
    leaves, tree = jax.tree.flatten(model, is_leaf=_is_none)
    labels = jax.tree.leaves(names(model, is_leaf=_is_none))
    stages = [_stage(name) for name in labels]
    order = {stage: place for place, stage in enumerate(dict.fromkeys(filter(None, stages)), 1)}
    factors, place = [], 0
    for leaf, name, stage in zip(leaves, labels, stages, strict=True):
        place = place if stage is None else order[stage]
        depth = len(order) + 1 - place if name.startswith(("frontend.", "network.")) else 0
        factors.append(None if leaf is None else decay**depth)
    return jax.tree.unflatten(tree, factors)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _stage(name: str) -> str | None:
    """The part of a name up to its first number, which is of the network."""
    match = re.match(r"network\.(?:[a-z]\w*\.)*?\d+(?=\.)", name)
    return match and match[0]
