"""A waveform in, its embedding out: frontend -> network, without a head."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractFrontend, AbstractNetwork
from ..layers import Length, Linear
from .hearing import hear, takes_length, valid


class Encoder(eqx.Module):
    """`frontend` and `network` without classes.

    A call gives the embedding. With `outputs` a call gives this many numbers instead, a linear map of the embedding:
    x-vector networks have such a map in front of their training loss. `embed` always gives the embedding. `length` is
    the number of valid samples, as in `Classifier`.

    Build it inside of `eqx.nn.make_with_state`: networks with BatchNorm carry State. The network computes in the dtype
    of its parameters, the frontend in float32.
    """

    frontend: AbstractFrontend
    network: AbstractNetwork
    head: Linear | None

    def __init__(
        self, frontend: AbstractFrontend, network: AbstractNetwork, *, outputs: int | None = None, key: PRNGKeyArray
    ):
        self.frontend, self.network = frontend, network
        self.head = None if outputs is None else Linear(network.width, outputs, key=key)

    @property
    def width(self) -> int:
        """The number of values that a call gives."""
        return self.network.width if self.head is None else self.head.outputs

    @property
    def takes_length(self) -> bool:
        """Whether a padded clip with its `length` gives the result of the clip without padding."""
        return takes_length(self.frontend, self.network)

    def listen(self, wave: Float[Array, " samples"], *, length: Length = None) -> Float[Array, "frames bins"]:
        """The frontend's features, which are float32, in the dtype that the network computes in."""
        leaves = jax.tree.leaves(eqx.filter(self.network, eqx.is_inexact_array))
        return hear(self.frontend, wave, length).astype(leaves[0].dtype if leaves else jnp.float32)

    def valid(self, samples: int, length: Length = None) -> dict[str, Array]:
        """The network's keyword arguments for a wave of `samples`: `length`, if there is padding."""
        return valid(self.frontend, self.network, samples, length)

    def embed(
        self,
        wave: Float[Array, " samples"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.network.width}"], eqx.nn.State]:
        """The clip's embedding: the network's output."""
        return self.network(self.listen(wave, length=length), state, key=key, **self.valid(wave.size, length))

    def __call__(
        self,
        wave: Float[Array, " samples"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.width}"], eqx.nn.State]:
        """The embedding, or its linear map, in float32."""
        y, state = self.embed(wave, state, length=length, key=key)
        return (y if self.head is None else self.head(y)).astype(jnp.float32), state
