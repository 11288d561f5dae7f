"""The two abstract classes. Frontends and networks meet in one shape, `frames bins`, and know no more of each other."""

import abc

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


class AbstractFrontend(eqx.Module):
    """A waveform in [-1, 1] to `frames bins`, always in float32 and without State.

    `sample_rate` is in Hz, `min_samples` is the shortest waveform it takes.
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


class AbstractNetwork(eqx.Module):
    """`frames bins` to an embedding of `width` numbers, one example at a time; the user's `vmap` makes the batch.

    Where the embedding is pooled from the feature map alone, `pool_map(map)` does it: what it makes of one step of the
    map is that step's own embedding.

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
    def positions(self, time: int) -> Float[np.ndarray, " {time}"]:
        """Where the centre of each of `time` steps of the feature map lies, counted in input frames."""
