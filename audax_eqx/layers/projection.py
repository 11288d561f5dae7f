"""The projection of a tower's embedding into the space that all towers share, where all vectors have length 1."""

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .cosine import unit
from .initial import split
from .linear import Linear
from .transformer import Activation, activate


class Projection(eqx.Module):
    """unit(linear2(activation(linear1(x)))), as in LAION's CLAP; in the input's dtype."""

    linear1: Linear
    linear2: Linear
    activation: Activation = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, *, activation: Activation = "relu", key: PRNGKeyArray):
        keys = split(key, 2)
        self.linear1 = Linear(inputs, outputs, key=keys[0])
        self.linear2 = Linear(outputs, outputs, key=keys[1])
        self.activation = activation

    @property
    def outputs(self) -> int:
        return self.linear2.outputs

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        return unit(self.linear2(activate(self.linear1(x), self.activation))).astype(x.dtype)
