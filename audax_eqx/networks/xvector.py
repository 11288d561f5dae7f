"""X-vectors, "X-Vectors: Robust DNN Embeddings for Speaker Recognition", Snyder et al., ICASSP 2018.

    map -> linear -> relu(5 frames) -> relu(3 frames, 2 apart) -> relu(3 frames, 3 apart) -> relu(1) -> relu(1)
        -> mean and standard deviation over time -> linear

Weights: https://huggingface.co/microsoft/wavlm-base-plus-sv, and other models of transformers' `...ForXVector`.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import Length, Linear, keyword, zero_behind
from ..layers.initial import split
from .wespeaker import statistics


class DilatedLayer(eqx.Module):
    """ReLU of a linear map of `kernel` steps, `dilation` apart; no padding. The channels of the first step come
    first."""

    linear: Linear
    kernel: int = eqx.field(static=True)
    dilation: int = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, *, key: PRNGKeyArray):
        self.linear = Linear(kernel * inputs, outputs, scale=(2 / (kernel * inputs)) ** 0.5, key=key)
        self.kernel, self.dilation = kernel, dilation

    @property
    def shortening(self) -> int:
        """The number of steps by which the output is shorter than the input."""
        return (self.kernel - 1) * self.dilation

    def __call__(self, x: Float[Array, "time inputs"]) -> Float[Array, "newtime outputs"]:
        time = len(x) - self.shortening
        steps = [x[index * self.dilation : index * self.dilation + time] for index in range(self.kernel)]
        return jax.nn.relu(self.linear(jnp.concatenate(steps, axis=1)))


class XVector(AbstractNetwork):
    """An embedding of the speaker, `width` numbers, from the feature map of `network`.

    - `widths`, `kernels`, `dilations`: those of each layer over time.

    The feature map is the output of these layers, which is shorter than the network's map. A map that is too short for
    one step is filled up with zeros at the end. `layers` are the layers of the network. Raises ValueError for sizes
    that do not go together.
    """

    network: AbstractNetwork
    project: Linear
    stack: tuple[DilatedLayer, ...]
    embed: Linear
    width: int = eqx.field(static=True)

    def __init__(
        self,
        network: AbstractNetwork,
        width: int = 512,
        *,
        widths: Sequence[int] = (512, 512, 512, 512, 1500),
        kernels: Sequence[int] = (5, 3, 3, 1, 1),
        dilations: Sequence[int] = (1, 2, 3, 1, 1),
        key: PRNGKeyArray,
    ):
        if not len(widths) == len(kernels) == len(dilations) > 0 or min(*widths, *kernels, *dilations) < 1:
            raise ValueError(
                "XVector takes as many widths as kernels and dilations, all at least 1, got "
                f"{tuple(widths)}, {tuple(kernels)} and {tuple(dilations)}."
            )
        keys = split(key, len(widths) + 2)
        self.network, self.width = network, width
        self.project = Linear(network.width, widths[0], key=keys[0])
        sizes = zip((widths[0], *widths), widths, kernels, dilations, keys[2:], strict=False)
        self.stack = tuple(DilatedLayer(*size, key=layer_key) for *size, layer_key in sizes)
        self.embed = Linear(2 * widths[-1], width, key=keys[1])

    @property
    def takes_length(self) -> bool:
        return self.network.takes_length

    @property
    def _shortening(self) -> int:
        return sum(layer.shortening for layer in self.stack)

    def layers(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Maps, eqx.nn.State]:
        network: Any = self.network
        return network.layers(x, state, key=key, **keyword(length))

    def features(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "time 1 channels"], eqx.nn.State]:
        network: Any = self.network
        y, state = network.features(x, state, key=key, **keyword(length))
        y = zero_behind(self.project(jnp.mean(y, axis=1)), None if length is None else network.steps(length))
        y = jnp.pad(y, ((0, max(self._shortening + 1 - len(y), 0)), (0, 0)))
        for layer in self.stack:
            y = layer(y)
        return y[:, None], state

    def pool_map(self, y: Float[Array, "time 1 channels"], *, length: Length = None) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map, made from `length` frames of a recording."""
        return self.embed(statistics(y, None if length is None else self.steps(length)))

    def steps(self, frames: int | Int[Array, ""]) -> int | Int[Array, ""]:
        count = self.network.steps(frames) - self._shortening
        return max(count, 1) if isinstance(count, int) else jnp.maximum(count, 1)

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        """The centres of the feature map, whose layers over time are symmetric, or those of a layer of the network."""
        if layer != -1:
            return self.network.positions(time, layer)
        return self.network.positions(time + self._shortening)[self._shortening // 2 :][:time]
