"""A head that compares each position of a map with prototypes of the classes (Heinrich et al., 2025, arXiv:2404.10420).

logit of class c = sum over p of max(scale[c, p], 0) * max over positions i of cos(x[i], weight[c, p]) + bias[c]
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .initial import full, normal
from .length import Length, within

EPS = 1e-5  # added to every length


class Prototypes(eqx.Module):
    """Logits, in float32, from the similarities of `count` prototypes for each output to their most similar positions.

    The initial prototypes are absolute values of normal numbers, the initial scales 2 and the initial biases -2.
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
        """With a `length` only the first `length` steps of time are compared."""
        vectors = x.reshape(-1, self.inputs)
        vectors = vectors / _lengths(vectors).astype(x.dtype)
        # The products are divided by the prototypes' lengths, because a normalised copy of all prototypes is large.
        prototypes = self.weight.reshape(-1, self.inputs)
        products = jnp.matmul(vectors, prototypes.T, preferred_element_type=jnp.float32)
        if length is not None:
            inside = jnp.repeat(within(x.shape[0], length), x.shape[1])
            products = jnp.where(inside[:, None], products, -jnp.inf)
        cosines = jnp.max(products, axis=0) / _lengths(prototypes)[:, 0]
        scale = jax.nn.relu(self.scale.astype(jnp.float32))
        return jnp.sum(scale * cosines.reshape(scale.shape), axis=1) + self.bias.astype(jnp.float32)


def _lengths(x: Float[Array, "rows width"]) -> Float[Array, "rows 1"]:
    """The length of each row plus EPS, in float32; the derivative of the length of a row of zeros is 0."""
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=1, keepdims=True)
    positive = squares > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0) + EPS
