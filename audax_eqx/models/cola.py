"""COLA, "Contrastive Learning of General-Purpose Audio Representations", Saeed et al., 2021, arXiv:2010.10915.

    frontend -> network -> linear projection, then the similarity of an anchor a and a positive p:

    bilinear:  tanh(norm(a)) W tanh(norm(p))
    dot:       cos(a, p) / temperature

Two crops of one clip are an anchor and its positive; the other clips of the batch are its negatives.
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractFrontend, AbstractNetwork
from ..layers import LayerNorm, Linear
from ..layers.initial import normal, split
from .abstract import AbstractContrastive
from .simclr import cosines


class COLA(AbstractContrastive):
    """`frontend` and `network` with a projection to `width` numbers and a similarity of projections.

    The similarity "dot" divides cosines by `temperature`; "bilinear" learns a scale. Build it inside of
    `eqx.nn.make_with_state`: networks with BatchNorm carry State.
    """

    frontend: AbstractFrontend
    network: AbstractNetwork
    projection: Linear
    norm: LayerNorm | None
    bilinear: Float[Array, "width width"] | None
    width: int = eqx.field(static=True)
    temperature: float = eqx.field(static=True)

    def __init__(
        self,
        frontend: AbstractFrontend,
        network: AbstractNetwork,
        width: int = 512,
        *,
        similarity: Literal["bilinear", "dot"] = "bilinear",
        temperature: float = 0.2,
        key: PRNGKeyArray,
    ):
        if temperature <= 0.0:
            raise ValueError(f"COLA divides cosines by its temperature, which must be > 0: got {temperature}.")
        projection_key, bilinear_key = split(key, 2)
        self.frontend, self.network = frontend, network
        self.projection = Linear(network.width, width, bias=False, scale=network.width**-0.5, key=projection_key)
        bilinear = similarity == "bilinear"
        self.norm = LayerNorm(width) if bilinear else None
        self.bilinear = normal(bilinear_key, (width, width), 0.01) if bilinear else None
        self.width, self.temperature = width, temperature

    def similarity(
        self,
        anchors: Float[Array | np.ndarray, "anchors {self.width}"],
        positives: Float[Array | np.ndarray, "positives {self.width}"],
    ) -> Float[Array, "anchors positives"]:
        """The similarity of each anchor and each positive: the logits of the contrastive loss, in float32."""
        if self.norm is None or self.bilinear is None:
            return cosines(anchors, positives) / self.temperature
        left, right = (jnp.tanh(self.norm(jnp.asarray(z, jnp.float32))) for z in (anchors, positives))
        return left @ self.bilinear.astype(jnp.float32) @ right.T
