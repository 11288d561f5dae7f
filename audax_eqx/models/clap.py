"""CLAP, "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion and Keyword-to-Caption Augmentation",
Wu et al., 2022, arXiv:2211.06687: two towers, whose vectors of length 1 lie close together if a text fits a sound.

    logits of a sound with texts = exp(logit scale) cosine(network(frontend(wave)), text(tokens))
"""

import math
from collections.abc import Hashable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..abstract import AbstractFrontend, AbstractNetwork
from ..layers import Length
from ..networks import RoBERTa
from .abstract import AbstractModel

SCALE = math.log(1 / 0.07)  # the logit scale at the start of training


class CLAP(AbstractModel):
    """The audio tower, `frontend` and `network`, and the text tower, `text`; both give vectors in one space.

    A call gives the embedding of a wave; `length` is the number of valid samples, as in `Classifier`. `embed_text`
    gives the embedding of a text's tokens. The two scales are natural logarithms of the factors of the cosines: of a
    sound with texts, and of a text with sounds. `tokenizer` turns texts into tokens; the zoo sets it, it may be None,
    and no computation depends on it.

    Build it inside of `eqx.nn.make_with_state`: networks with BatchNorm carry State. Raises ValueError for towers that
    give vectors of different sizes.
    """

    frontend: AbstractFrontend
    network: AbstractNetwork
    text: RoBERTa
    audio_logit_scale: Float[Array, ""]
    text_logit_scale: Float[Array, ""]
    tokenizer: Hashable | None

    def __init__(self, frontend: AbstractFrontend, network: AbstractNetwork, text: RoBERTa):
        if network.width != text.width:
            raise ValueError(
                f"CLAP compares the vectors of its towers, and they have {network.width} and {text.width} numbers: "
                "give both towers a projection of the same width."
            )
        self.frontend, self.network, self.text = frontend, network, text
        self.audio_logit_scale, self.text_logit_scale = (jax.device_put(np.float32(SCALE)) for _ in range(2))
        self.tokenizer = None

    @property
    def width(self) -> int:
        """The number of values that a call gives."""
        return self.network.width

    def __call__(
        self,
        wave: Float[Array, " samples"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.width}"], eqx.nn.State]:
        """The embedding, in float32."""
        y, state = self.embed(wave, state, length=length, key=key)
        return y.astype(jnp.float32), state

    def embed_text(self, tokens: Int[Array, " tokens"], *, length: Length = None) -> Float[Array, "{self.text.width}"]:
        """The embedding of the first `length` tokens of a text, in float32."""
        return self.text(tokens, length=length).astype(jnp.float32)
