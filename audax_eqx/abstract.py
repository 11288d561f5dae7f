"""The two abstract classes. Frontends and networks meet in one shape, `frames bins`, and know no more of each other."""

import abc

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

Maps = tuple[Float[Array, "_time _freq _channels"], ...]


class AbstractFrontend(eqx.Module):
    """A waveform in [-1, 1] to `frames bins`, always in float32 and without State.

    `sample_rate` is in Hz, `min_samples` is the shortest waveform it takes.

    One that `takes_length` has `frontend(wave, length=samples)`, and gives in its first `frames(samples)` frames what
    it gives for the wave's first `samples` alone, whatever lies behind them. `samples` may be traced.
    """

    sample_rate: eqx.AbstractVar[int]
    bins: eqx.AbstractVar[int]
    min_samples: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, wave: Float[Array, " samples"]) -> Float[Array, "frames {self.bins}"]:
        """The features of one clip."""

    @abc.abstractmethod
    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        """Seconds from the start of the waveform to the centre of frame 0.0, 1.0, ...; fractions lie between."""

    @property
    def takes_length(self) -> bool:
        return False

    @property
    def fills(self) -> bool:
        """Whether a network hears all that the frontend fills a clip up with, as CLAP's repetitions: it needs no length
        then."""
        return False


class AbstractNetwork(eqx.Module):
    """`frames bins` to an embedding of `width` numbers, one example at a time; the user's `vmap` makes the batch.

    Where the embedding is pooled from the feature map alone, `pool_map(map)` does it: what it makes of one step of the
    map is that step's own embedding.

    One that `takes_length` has a keyword `length`, of the call, `features`, `layers` and `pool_map`: how many of the
    frames that went in are a recording's. It may be traced. What lies behind has no part in the embedding or in the
    map before it, and the map behind it means nothing.

    `state` is threaded in Equinox's way; a stateless network hands it through. `key` feeds dropout and drop path, and
    is needed in training mode only.
    """

    width: eqx.AbstractVar[int]

    @abc.abstractmethod
    def features(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "time freq channels"], eqx.nn.State]:
        """The last feature map, before pooling."""

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "{self.width}"], eqx.nn.State]:
        """The embedding: the feature map, pooled."""

    @abc.abstractmethod
    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        """Where the centre of each of `time` steps of a map lies, counted in input frames: of the feature map, or of
        `layers(...)[0][layer]`."""

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        """The maps of all layers: after each stage of a convolutional network, after the embedding and each block of a
        Transformer. The last is what `features` gives, unless a norm comes in between.

        Where a network does not define it, the feature map is its one layer.
        """
        y, state = self.features(x, state, key=key)
        return (y,), state

    def steps(self, frames: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """How many steps of the feature map are made of so many frames, of those that `takes_length`: a frame each
        unless a network says otherwise."""
        return frames

    @property
    def takes_length(self) -> bool:
        return False

    @property
    def unit_length(self) -> bool:
        """Whether the embedding has length 1, as that of several clips should have, too."""
        return False
