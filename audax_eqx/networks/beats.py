"""BEATs, "Audio Pre-Training with Acoustic Tokenizers", Chen et al., 2022, arXiv:2212.09058: WavLM's Transformer over
patches of a spectrogram.

    tokens:  16x16 patches, all patches of one time, then those of the next time
             h = linear(norm(patch)), norm(h + gelu(128 tokens in 16 groups(h)))
    block:   norm(a x + attention(x)), then norm(a x + mlp(x)), with a = (2 depth)^(1/4)
             the attention has a bias by distance in this row of tokens, gated by the query of each token
    end:     mean of the recording's tokens

Weights: https://github.com/microsoft/unilm/tree/master/beats (MIT); its links to the files are dead, so the zoo
has copies on the Hub, `beats_iter3_plus` and `beats_iter3_plus_audioset`.
"""

from functools import partial
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import Activation, Length, Patchify, TransformerBlock, mean_first, zero_behind
from ..layers.initial import split
from .wav2vec2 import Wav2Vec2


class BEATs(AbstractNetwork):
    """BEATs over `frames bins`; a step of the feature map is a patch.

    - `patch`: the number of frames and of bins of a patch. An incomplete patch at the end is cut off; an input shorter
      than a patch is filled up with zeros.
    - `embedding`: the outputs of the linear map of a patch. If they are not `width`, a second linear map follows.
    - `patch_bias`: whether the linear map of a patch has a bias.
    - All other options are as in `Wav2Vec2`.

    The logits of the authors' fine-tuned model are the mean over the tokens of the head's outputs. The head of the mean
    is the same, because the head is linear. Raises ValueError for a width that the heads or groups do not divide.
    """

    patchify: Patchify
    encoder: Wav2Vec2
    width: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        patch: int = 16,
        embedding: int = 512,
        patch_bias: bool = False,
        norm_first: bool = False,
        deep_norm: bool = True,
        kernel: int = 128,
        groups: int = 16,
        buckets: int | None = 320,
        max_distance: int = 800,
        gate: Literal["input", "query"] | None = "query",
        mlp_width: int | None = None,
        activation: Activation = "gelu",
        drop_path: float = 0.0,
        key: PRNGKeyArray,
    ):
        if min(patch, embedding) < 1:
            raise ValueError(f"BEATs takes sizes of at least 1, got patch={patch} and embedding={embedding}.")
        patch_key, key = split(key, 2)
        self.patchify = Patchify(1, embedding, (patch, patch), bias=patch_bias, key=patch_key)
        self.encoder = Wav2Vec2(
            width,
            depth,
            heads,
            bins=embedding,
            project=embedding != width,
            norm_first=norm_first,
            deep_norm=deep_norm,
            kernel=kernel,
            groups=groups,
            buckets=buckets,
            max_distance=max_distance,
            gate=gate,
            mlp_width=mlp_width,
            activation=activation,
            drop_path=drop_path,
            key=key,
        )
        self.width = width

    @property
    def blocks(self) -> tuple[TransformerBlock, ...]:
        return self.encoder.blocks

    @property
    def takes_length(self) -> bool:
        return True

    def layers(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Maps, eqx.nn.State]:
        y = self.patchify(zero_behind(x, length)[:, :, None])
        time, freq, _ = y.shape
        tokens = y.reshape(time * freq, -1)
        count = None if length is None else self.steps(length) * freq
        maps, state = self.encoder.layers(tokens, state, length=count, key=key)
        return tuple(y.reshape(time, freq, self.width) for y in maps), state

    def features(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "time freq {self.width}"], eqx.nn.State]:
        maps, state = self.layers(x, state, length=length, key=key)
        return self.encoder.norm(maps[-1]) if self.encoder.norm_first else maps[-1], state

    def pool_map(
        self, y: Float[Array, "time freq {self.width}"], *, length: Length = None
    ) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map, made from `length` frames of a recording."""
        return jnp.mean(mean_first(y, None if length is None else self.steps(length)), axis=0)

    def steps(self, frames: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """The number of steps of the feature map for so many frames, at least 1."""
        count = frames // self._patch
        return max(count, 1) if isinstance(count, int) else jnp.maximum(count, 1)

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        return np.arange(time) * self._patch + (self._patch - 1) / 2

    @property
    def _patch(self) -> int:
        return self.patchify.weight.shape[0]


beats_base = partial(BEATs, 768, 12, 12)
