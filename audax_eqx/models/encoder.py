"""A waveform in, its embedding out: frontend -> network, without a head."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractFrontend, AbstractNetwork
from ..layers import Length, Linear
from .abstract import AbstractModel


class Encoder(AbstractModel):
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
