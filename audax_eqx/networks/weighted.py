"""A learned sum of a Transformer's layers (Peters et al., 2018, arXiv:1802.05365), as in SUPERB (Yang et al., 2021,
arXiv:2105.01051).

    features = sum over layers of softmax(weights)_i layer_i

Lower layers help with some tasks (who speaks), upper layers with others (what is said).
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import Length, keyword, mean_first
from ..layers.initial import full


class WeightedLayers(AbstractNetwork):
    """`network` with the weighted sum of its layers as the feature map; the initial weights are equal.

    `layers` is the number of layers; None for the number of blocks plus 1 for the embedding in front of them. The map
    is pooled by the network's `pool_map`, or by the mean over time and freq if the network has none. Raises ValueError
    for layers of different sizes, as in a convolutional network.
    """

    network: AbstractNetwork
    weights: Float[Array, " layers"]
    width: int = eqx.field(static=True)

    def __init__(self, network: AbstractNetwork, layers: int | None = None):
        layers = len(getattr(network, "blocks", ())) + 1 if layers is None else layers
        self.network, self.weights, self.width = network, full(layers, 0.0), network.width

    @property
    def takes_length(self) -> bool:
        return self.network.takes_length

    def layers(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Maps, eqx.nn.State]:
        """The layers of the network."""
        network: Any = self.network
        return network.layers(x, state, key=key, **keyword(length))

    def features(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "time freq {self.width}"], eqx.nn.State]:
        maps, state = self.layers(x, state, length=length, key=key)
        name, sizes = type(self.network).__name__, dict.fromkeys(y.shape for y in maps)
        if len(sizes) > 1:
            raise ValueError(
                f"WeightedLayers adds up layers of one size, as in a Transformer, and those of {name} have "
                f'several, {", ".join(map(str, sizes))}: give a new head layers="last".'
            )
        if len(maps) != len(self.weights):
            raise ValueError(
                f"WeightedLayers adds up {len(self.weights)} layers, and {name} has {len(maps)}: give the sum "
                f'layers={len(maps)}, or a new head layers="last".'
            )
        weights = jax.nn.softmax(self.weights.astype(jnp.float32)).astype(maps[0].dtype)
        return functools.reduce(jnp.add, (weight * y for weight, y in zip(weights, maps, strict=True))), state

    def pool_map(
        self, y: Float[Array, "time freq {self.width}"], *, length: Length = None
    ) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map."""
        pool: Any = getattr(self.network, "pool_map", None)
        return jnp.mean(mean_first(y, length), axis=0) if pool is None else pool(y, **keyword(length))

    def steps(self, frames: int | Int[Array, ""]) -> int | Int[Array, ""]:
        return self.network.steps(frames)

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        return self.network.positions(time, layer)
