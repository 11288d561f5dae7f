"""CLAP, "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion and Keyword-to-Caption Augmentation", Wu
et al., 2022, arXiv:2211.06687: two towers whose vectors of length 1 lie close together where a text fits a sound.

    logits of a sound for texts = exp(logit scale) cosine(network(frontend(wave)), text(tokens))
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
from .hearing import hear, takes_length, valid

SCALE = math.log(1 / 0.07)  # the logit scale that training starts with


class CLAP(eqx.Module):
    """`frontend` and `network`, the audio tower, beside `text`, whose vectors are in the same space.

    Called it gives the embedding of a wave; `length` is the number of samples that count, as in `Classifier`.
    `embed_text` gives that of a text's tokens. The scales are natural logarithms of what cosines are multiplied with:
    those of a sound with texts, and those of a text with sounds. `tokenizer` is what makes tokens of texts, for those
    who have one, as the zoo does; no computation depends on it.

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
                f"CLAP compares what its towers give, and these give {network.width} and {text.width} numbers: give "
                "both a projection of the same width."
            )
        self.frontend, self.network, self.text = frontend, network, text
        self.audio_logit_scale, self.text_logit_scale = (jax.device_put(np.float32(SCALE)) for _ in range(2))
        self.tokenizer = None

    @property
    def width(self) -> int:
        """How many numbers a call gives."""
        return self.network.width

    @property
    def takes_length(self) -> bool:
        """Whether it gives for a padded clip and its `length` what it gives for the clip."""
        return takes_length(self.frontend, self.network)

    def listen(self, wave: Float[Array, " samples"], *, length: Length = None) -> Float[Array, "frames bins"]:
        """The frontend's features, which are float32, in the dtype that the towers compute in."""
        return hear(self.frontend, wave, length).astype(self.text.pooler.weight.dtype)

    def valid(self, samples: int, length: Length = None) -> dict[str, Array]:
        """What the network is to know of a wave of `samples`: its keyword `length`, where there is padding."""
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
        """The embedding, in float32."""
        y, state = self.embed(wave, state, length=length, key=key)
        return y.astype(jnp.float32), state

    def embed_text(self, tokens: Int[Array, " tokens"], *, length: Length = None) -> Float[Array, "{self.text.width}"]:
        """The embedding of the first `length` tokens of a text, in float32."""
        return self.text(tokens, length=length).astype(jnp.float32)
