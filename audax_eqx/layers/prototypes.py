"""A head that compares each place of a map with prototypes of the classes (Heinrich et al., 2025, arXiv:2404.10420).

logit of class c = sum over p of max(scale[c, p], 0) * max over places of cos(x[place], weight[c, p]) + bias[c]
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .initial import full, normal
from .length import Length, within

EPS = 1e-5  # added to every length


class Prototypes(eqx.Module):
    """`count` prototypes for each output, of which each counts where the map is most like it; logits in float32.

    Prototypes start as absolute values of normal numbers, scales at 2 and biases at -2.
    """

    weight: Float[Array, "outputs count inputs"]
    scale: Float[Array, "outputs count"]
    bias: Float[Array, " outputs"]
    inputs: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, count: int, *, key: PRNGKeyArray):
        if count < 1:
            raise ValueError(f"Prototypes takes at least 1 prototype for each output, got {count}.")
        self.weight = jnp.abs(normal(key, (outputs, count, inputs), 1.0))
        self.scale = full(outputs * count, 2.0).reshape(outputs, count)
        self.bias = full(outputs, -2.0)
        self.inputs, self.outputs = inputs, outputs

    @property
    def count(self) -> int:
        return self.scale.shape[1]

    def __call__(
        self, x: Float[Array, "time freq {self.inputs}"], *, length: Length = None
    ) -> Float[Array, " {self.outputs}"]:
        """With a `length` the map's first steps of time alone count."""
        places = x.reshape(-1, self.inputs)
        places = places / _lengths(places).astype(x.dtype)
        # Products are divided by the prototypes' lengths, for a copy of all prototypes is large.
        prototypes = self.weight.reshape(-1, self.inputs)
        products = jnp.matmul(places, prototypes.T, preferred_element_type=jnp.float32)
        if length is not None:
            inside = jnp.repeat(within(x.shape[0], length), x.shape[1])
            products = jnp.where(inside[:, None], products, -jnp.inf)
        cosines = jnp.max(products, axis=0) / _lengths(prototypes)[:, 0]
        scale = jax.nn.relu(self.scale.astype(jnp.float32))
        return jnp.sum(scale * cosines.reshape(scale.shape), axis=1) + self.bias.astype(jnp.float32)


def _lengths(x: Float[Array, "rows width"]) -> Float[Array, "rows 1"]:
    """The length of each row, in float32; its derivative at zeros is 0."""
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=1, keepdims=True)
    some = squares > 0.0
    return jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1.0)), 0.0) + EPS
