"""The two abstract classes. Frontends and networks share one shape, `frames bins`, and need not know each other."""

import abc
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .layers import Length, keyword

Maps = tuple[Float[Array, "_time _freq _channels"], ...]


class AbstractFrontend(eqx.Module):
    """A frontend maps a waveform in [-1, 1] to `frames bins`, always in float32 and without State.

    `sample_rate` is in Hz, `min_samples` is the length of the shortest waveform.

    Some frontends accept a length (`takes_length`): `frontend(wave, length=samples)`. Their first `frames(samples)`
    frames are those of the wave's first `samples` alone, whatever follows them. `samples` may be traced.
    """

    sample_rate: eqx.AbstractVar[int]
    bins: eqx.AbstractVar[int]
    min_samples: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, wave: Float[Array, " samples"]) -> Float[Array, "frames {self.bins}"]:
        """The features of one clip."""

    @abc.abstractmethod
    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        """The time of the centre of each frame in `positions`, in seconds from the start of the waveform. A position
        may be fractional."""

    @property
    def takes_length(self) -> bool:
        return False

    @property
    def fills(self) -> bool:
        """Whether the network is meant to read the frames with which the frontend fills up a short clip, for example
        the repetitions of CLAP's frontend. Such a network needs no length."""
        return False


class AbstractNetwork(eqx.Module):
    """A network maps `frames bins` to an embedding of `width` numbers, one example at a time; `vmap` makes the batch.

    A network defines `positions`, and

    - `layers`, the maps of all its layers, or `features`, the last feature map; each has the other as its default,
    - `pool_map(map)`, if the embedding depends on the feature map alone, or else `__call__`. The `pool_map` of a single
      step of the map is the embedding of that step.

    Some networks accept a length (`takes_length`): the call, `features`, `layers` and `pool_map` have a keyword
    `length`, the number of input frames that belong to the recording; it may be traced. Frames after `length` change
    neither the embedding nor the first `steps(length)` steps of the map. Later steps have no meaning.

    `state` is threaded in Equinox's way; a stateless network returns it unchanged. `key` is the source of dropout and
    drop path; only training mode needs it.
    """

    width: eqx.AbstractVar[int]

    def __check_init__(self):
        kind, base = type(self), AbstractNetwork
        if kind.features is base.features and kind.layers is base.layers:
            raise TypeError(f"{kind.__name__} has neither `features` nor `layers`: a network defines one of them.")
        if kind.__call__ is base.__call__ and not hasattr(kind, "pool_map"):
            raise TypeError(f"{kind.__name__} has neither `pool_map` nor `__call__`: a network defines one of them.")

    def layers(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Maps, eqx.nn.State]:
        """The maps of all layers. A convolutional network has one after each stage, a Transformer one after the
        embedding and one after each block. The last map is the feature map, unless a norm lies between the two.

        By default the feature map is the only layer.
        """
        y, state = self.features(x, state, key=key, **keyword(length))
        return (y,), state

    def features(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "time freq channels"], eqx.nn.State]:
        """The last feature map, before pooling; by default the last of `layers`."""
        maps, state = self.layers(x, state, key=key, **keyword(length))
        return maps[-1], state

    def __call__(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.width}"], eqx.nn.State]:
        """The embedding; by default the feature map, pooled by `pool_map`."""
        network: Any = self
        y, state = network.features(x, state, key=key, **keyword(length))
        return network.pool_map(y, **keyword(length)), state

    @abc.abstractmethod
    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        """The centres of the first `time` steps of a map, counted in input frames. The map is by default the feature
        map, else `layers(...)[0][layer]`."""

    def steps(self, frames: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """The number of steps of the feature map that belong to so many frames, for networks that take a length. By
        default each step is one frame."""
        return frames

    @property
    def takes_length(self) -> bool:
        return False

    @property
    def unit_length(self) -> bool:
        """Whether the embedding has length 1. The mean embedding of several clips should then have length 1 too."""
        return False
