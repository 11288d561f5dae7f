"""Whisper's encoder, "Robust Speech Recognition via Large-Scale Weak Supervision", Radford et al., 2022,
arXiv:2212.04356.

    tokens:  gelu(3 frames, every second(gelu(3 frames(log-mel)))) + position embedding
    block:   x + attention(norm(x)), then x + contract(gelu(expand(norm(x)))); the key has no bias
    end:     LayerNorm -> mean of the recording's tokens

Weights: https://huggingface.co/openai/whisper-tiny, -base, -small, -medium, -large-v2, -large-v3 (Apache-2.0), and
those of transformers' `WhisperForAudioClassification`. The paper's position embedding, of sines and cosines, is not
trained, but the published weights contain it as a table, and so does this network.
"""

import math
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import (
    Activation,
    LayerNorm,
    Length,
    TimeConv,
    TransformerBlock,
    activate,
    mean_first,
    split_key,
    transformer_blocks,
)
from ..layers.initial import split


class Whisper(AbstractNetwork):
    """Whisper's encoder over `frames bins`; a step of the feature map is two frames.

    - `steps`: the steps of the position embedding, for twice as many frames. Fewer frames use its first steps, but the
      weights were not trained for this.
    - `mlp_width`: the width of the MLPs; None for 4 times the width.
    - `activation`: "gelu" (exact), "gelu_tanh", "relu" or "silu", behind the convolutions and in the MLPs.
    - `pool`: the steps whose mean is the embedding: those of the "recording", or "all", as in the classifiers of
      transformers. All steps attend to all steps, also to the silence behind a recording, as in Whisper's training.
    - `drop_path`: the rate of the last block; it rises linearly with depth from 0 at the first block.

    The last of its `layers` is the feature map, behind the last norm, as in the hidden states of transformers. Raises
    ValueError for more frames than there are positions, and for a width that the heads do not divide.
    """

    conv1: TimeConv
    conv2: TimeConv
    position_embedding: Float[Array, "steps width"]
    blocks: tuple[TransformerBlock, ...]
    norm: LayerNorm
    width: int = eqx.field(static=True)
    pool: Literal["recording", "all"] = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        bins: int = 80,
        steps: int = 1500,
        mlp_width: int | None = None,
        activation: Activation = "gelu",
        pool: Literal["recording", "all"] = "recording",
        drop_path: float = 0.0,
        key: PRNGKeyArray,
    ):
        if min(bins, steps) < 1 or width < 4 or width % 2:
            raise ValueError(
                f"Whisper takes at least 1 bin and 1 step and an even width from 4 on, got bins={bins}, steps={steps} "
                f"and width={width}."
            )
        keys = split(key, depth + 2)
        self.conv1 = TimeConv(bins, width, 3, key=keys[0])
        self.conv2 = TimeConv(width, width, 3, stride=2, key=keys[1])
        self.position_embedding = jax.device_put(_sinusoids(steps, width))
        self.blocks = transformer_blocks(
            width,
            heads,
            mlp_width=mlp_width,
            key_bias=False,
            eps=1e-5,
            activation=activation,
            drop_path=drop_path,
            keys=keys[2:],
        )
        self.norm = LayerNorm(width, eps=1e-5)
        self.width, self.pool, self.activation = width, pool, activation

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
        y = activate(self.conv1(x), self.activation)
        y = activate(self.conv2(y), self.activation)
        if len(y) > len(self.position_embedding):
            raise ValueError(
                f"Whisper has positions for {2 * len(self.position_embedding)} frames, got {len(x)}: cut the clip, as "
                "WhisperLogMel does."
            )
        tokens = [y + self.position_embedding[: len(y)]]
        keys = split_key(key, len(self.blocks))
        for block, block_key in zip(self.blocks, keys, strict=True):
            tokens.append(block(tokens[-1], key=block_key))
        tokens[-1] = self.norm(tokens[-1])
        return tuple(y[:, None] for y in tokens), state

    def pool_map(
        self, y: Float[Array, "time freq {self.width}"], *, length: Length = None
    ) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map, made from `length` frames of a recording."""
        steps = None if length is None or self.pool == "all" else self.steps(length)
        return jnp.mean(mean_first(y, steps), axis=0)

    def steps(self, frames: int | Int[Array, ""]) -> int | Int[Array, ""]:
        return (frames + 1) // 2

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        return np.arange(time) * 2.0


def _sinusoids(steps: int, width: int) -> Float[np.ndarray, "{steps} {width}"]:
    """Sines, then cosines, with wavelengths from 2 pi to 10,000 times 2 pi."""
    rates = np.exp(-math.log(10000.0) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(steps)[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


whisper_tiny = partial(Whisper, 384, 4, 6)
whisper_base = partial(Whisper, 512, 6, 8)
whisper_small = partial(Whisper, 768, 12, 12)
whisper_medium = partial(Whisper, 1024, 24, 16)
whisper_large = partial(Whisper, 1280, 32, 20)
whisper_large_v3 = partial(Whisper, 1280, 32, 20, bins=128)
