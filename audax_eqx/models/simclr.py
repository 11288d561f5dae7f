"""SimCLR, "A Simple Framework for Contrastive Learning", Chen et al., 2020, arXiv:2002.05709.

    frontend -> network -> projection: contract(relu(expand(h)))

Two views of a clip are each other's positives, and all other views of the batch are negatives; the loss is NT-Xent.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractFrontend, AbstractNetwork
from ..layers import Linear, unit
from ..layers.initial import split
from .abstract import AbstractContrastive


class MLP(eqx.Module):
    """Linear, ReLU, linear: the projection of the paper; the last map has no bias."""

    expand: Linear
    contract: Linear

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        expand_key, contract_key = split(key, 2)
        self.expand = Linear(inputs, inputs, scale=(2 / inputs) ** 0.5, key=expand_key)
        self.contract = Linear(inputs, outputs, bias=False, scale=inputs**-0.5, key=contract_key)

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        return self.contract(jax.nn.relu(self.expand(x)))


class SimCLR(AbstractContrastive):
    """`frontend` and `network` with a projection to `width` numbers: an MLP, or a linear map if `linear`, as in audax.

    The similarity divides cosines by `temperature`. Build it inside of `eqx.nn.make_with_state`: networks with
    BatchNorm carry State.
    """

    frontend: AbstractFrontend
    network: AbstractNetwork
    projection: MLP | Linear
    width: int = eqx.field(static=True)
    temperature: float = eqx.field(static=True)

    def __init__(
        self,
        frontend: AbstractFrontend,
        network: AbstractNetwork,
        width: int = 128,
        *,
        linear: bool = False,
        temperature: float = 0.1,
        key: PRNGKeyArray,
    ):
        if temperature <= 0.0:
            raise ValueError(f"SimCLR divides cosines by its temperature, which must be > 0: got {temperature}.")
        self.frontend, self.network = frontend, network
        if linear:
            self.projection = Linear(network.width, width, bias=False, scale=network.width**-0.5, key=key)
        else:
            self.projection = MLP(network.width, width, key=key)
        self.width, self.temperature = width, temperature

    def similarity(
        self,
        views: Float[Array | np.ndarray, "views {self.width}"],
        others: Float[Array | np.ndarray, "others {self.width}"],
    ) -> Float[Array, "views others"]:
        """The similarity of each view and each other view: cosines divided by the temperature."""
        return cosines(views, others) / self.temperature


def cosines(a: Float[Array | np.ndarray, "n width"], b: Float[Array | np.ndarray, "m width"]) -> Float[Array, "n m"]:
    """The cosine of the angle between each row of `a` and each row of `b`; 0 for a row of zeros."""
    return unit(jnp.asarray(a)) @ unit(jnp.asarray(b)).T
