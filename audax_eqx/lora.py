"""LoRA, "Low-Rank Adaptation of Large Language Models", Hu et al., 2021, arXiv:2106.09685.

    y = x W^T + b + x down^T up^T          W and b are frozen, down (rank inputs) and up (outputs rank) are trained

`up` starts at zero, so an adapted model first computes what it computed before. In ConvNeXt and the transformers nearly
all weights lie in `layers.Linear`; in a ResNet the 1x1 convolutions and few other weights do.

    adapted = lora.adapt(model, rank=8, key=key)
    parameters, rest = tree.freeze(adapted, ("*",), but=(*lora.ADAPTERS, "head.*"))
    ...                                    # the training loop, the same as for any parameters
    model = lora.merge(eqx.combine(parameters, rest))
"""

from collections.abc import Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .layers import Linear
from .layers.initial import normal, split
from .tree import matches, names

Model = TypeVar("Model")
ADAPTERS = ("*.down", "*.up")  # patterns of the names of adapters' parameters


class LoRA(eqx.Module):
    """A `Linear` with an adapter beside it; `weight` and `bias` are those of the merged layer."""

    base: Linear
    down: Float[Array, "rank inputs"]
    up: Float[Array, "outputs rank"]

    def __init__(self, base: Linear, rank: int, *, key: PRNGKeyArray):
        self.base = base
        self.down = normal(key, (rank, base.inputs), base.inputs**-0.5)
        self.up = jnp.zeros((base.outputs, rank), jnp.float32)

    @property
    def inputs(self) -> int:
        """The inputs of the `Linear`."""
        return self.base.inputs

    @property
    def outputs(self) -> int:
        """The outputs of the `Linear`."""
        return self.base.outputs

    @property
    def weight(self) -> Float[Array, "outputs inputs"]:
        """The matrix of the `Linear` plus the product of the adapter's two matrices."""
        return self.base.weight + self.up @ self.down

    @property
    def bias(self) -> Float[Array, " outputs"] | None:
        """The bias of the `Linear`."""
        return self.base.bias

    def __call__(self, x: Float[Array, "*leading inputs"]) -> Float[Array, "*leading outputs"]:
        return self.base(x) + x @ self.down.T @ self.up.T


def adapt(model: Model, rank: int, *, patterns: Sequence[str] = ("network.*",), key: PRNGKeyArray) -> Model:
    """The model with an adapter of this rank beside every `Linear` whose weight's name matches one of the patterns.

    The query, key and value of a `FusedAttention` are one `Linear`, so they share one `down`. Raises ValueError for a
    rank below 1, for patterns that match no `Linear`, and for a model that already has adapters.
    """
    if isinstance(patterns, str):
        raise TypeError(f"Patterns come as a sequence of them, got the text {patterns!r}: write ({patterns!r},).")
    if rank < 1:
        raise ValueError(f"An adapter has a rank of at least 1, got {rank}.")
    nodes, tree = jax.tree.flatten(model, is_leaf=lambda node: isinstance(node, Linear | LoRA))
    if any(isinstance(node, LoRA) for node in nodes):
        raise ValueError("The model already has adapters: merge them first, with audax_eqx.lora.merge(model).")
    paths = jax.tree.leaves(names(model, is_leaf=lambda node: isinstance(node, Linear)))
    indices = [
        index
        for index, (node, path) in enumerate(zip(nodes, paths, strict=True))
        if isinstance(node, Linear) and matches(f"{path}.weight", patterns)
    ]
    if not indices:
        raise ValueError(f"The model has no Linear under {', '.join(patterns)}: give other patterns of names.")
    for index, adapter_key in zip(indices, split(key, len(indices)), strict=True):
        nodes[index] = LoRA(nodes[index], rank, key=adapter_key)
    return jax.tree.unflatten(tree, nodes)


def merge(model: Model) -> Model:
    """The model with each adapter added to its `Linear`: it is as fast as the original, and has the original's names.

    A model without adapters is returned unchanged.
    """

    def merge_node(node):
        return eqx.tree_at(lambda base: base.weight, node.base, node.weight) if isinstance(node, LoRA) else node

    return jax.tree.map(merge_node, model, is_leaf=lambda node: isinstance(node, LoRA))
