"""LoRA, "Low-Rank Adaptation of Large Language Models", Hu et al., 2021, arXiv:2106.09685.

    y = x W^T + b + x down^T up^T          W and b are frozen, down (rank inputs) and up (outputs rank) are trained

`up` starts at zero, so the model starts as it was. In ConvNeXt and the transformers nearly all weights are in
`layers.Linear`; in a ResNet its 1x1 convolutions are, and few weights else.

    adapted = lora.adapt(model, rank=8, key=key)
    parameters, rest = tree.freeze(adapted, ("*",), but=(*lora.ADAPTERS, "head.*"))
    ...                                    # the training loop, as for any parameters
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
ADAPTERS = ("*.down", "*.up")  # patterns of the names of their parameters


class LoRA(eqx.Module):
    """A `Linear` with an adapter beside it. `weight` and `bias` are those of the merged layer."""

    base: Linear
    down: Float[Array, "rank inputs"]
    up: Float[Array, "outputs rank"]

    def __init__(self, base: Linear, rank: int, *, key: PRNGKeyArray):
        self.base = base
        self.down = normal(key, (rank, base.inputs), base.inputs**-0.5)
        self.up = jnp.zeros((base.outputs, rank), jnp.float32)

    @property
    def inputs(self) -> int:
        """Those of the `Linear`."""
        return self.base.inputs

    @property
    def outputs(self) -> int:
        """Those of the `Linear`."""
        return self.base.outputs

    @property
    def weight(self) -> Float[Array, "outputs inputs"]:
        """The matrix of the `Linear` and the product of the adapter's."""
        return self.base.weight + self.up @ self.down

    @property
    def bias(self) -> Float[Array, " outputs"] | None:
        """That of the `Linear`."""
        return self.base.bias

    def __call__(self, x: Float[Array, "*leading inputs"]) -> Float[Array, "*leading outputs"]:
        return self.base(x) + x @ self.down.T @ self.up.T


def adapt(model: Model, rank: int, *, patterns: Sequence[str] = ("network.*",), key: PRNGKeyArray) -> Model:
    """The model with an adapter of that rank beside every `Linear` whose weight matches one of the patterns.

    The query, key and value of a `FusedAttention` are one `Linear`, and share one `down`. Raises ValueError for a rank
    below 1, for patterns that match no `Linear`, and for a model that has adapters.
    """
    if isinstance(patterns, str):
        raise TypeError(f"Patterns come as a sequence of them, got the text {patterns!r}: write ({patterns!r},).")
    if rank < 1:
        raise ValueError(f"An adapter has a rank of at least 1, got {rank}.")
    nodes, tree = jax.tree.flatten(model, is_leaf=lambda node: isinstance(node, Linear | LoRA))
    if any(isinstance(node, LoRA) for node in nodes):
        raise ValueError("The model has adapters: merge them first, audax_eqx.lora.merge(model).")
    paths = jax.tree.leaves(names(model, is_leaf=lambda node: isinstance(node, Linear)))
    places = [
        place
        for place, (node, path) in enumerate(zip(nodes, paths, strict=True))
        if isinstance(node, Linear) and matches(f"{path}.weight", patterns)
    ]
    if not places:
        raise ValueError(f"The model has no Linear under {', '.join(patterns)}: give other patterns of names.")
    for place, place_key in zip(places, split(key, len(places)), strict=True):
        nodes[place] = LoRA(nodes[place], rank, key=place_key)
    return jax.tree.unflatten(tree, nodes)


def merge(model: Model) -> Model:
    """The model with each adapter added to its `Linear`: as fast as before, and with the names of before.

    A model without adapters is given back as it is.
    """

    def merged(node):
        return eqx.tree_at(lambda base: base.weight, node.base, node.weight) if isinstance(node, LoRA) else node

    return jax.tree.map(merged, model, is_leaf=lambda node: isinstance(node, LoRA))
