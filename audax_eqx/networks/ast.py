"""AST: Audio Spectrogram Transformer, Gong et al., 2021, arXiv:2104.01778.

    tokens:  [class, distillation, overlapping 16x16 patches of the fbank] + position embedding
    block:   x + attention(norm(x)), then x + contract(gelu(expand(norm(x))))
    end:     LayerNorm -> mean of the class and the distillation token

AudioSet weights: https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593 (BSD-3). The names of the variants are
those of DeiT (Touvron et al., 2021, arXiv:2012.12877), whose image weights are the paper's initial weights.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import Activation, Conv, LayerNorm, TransformerBlock, split_key, transformer_blocks
from ..layers.initial import normal, split


class AST(AbstractNetwork):
    """AST over `frames bins`; a step of the feature map is a patch, `stride` (frames, bins) from the previous patch.

    - `bins`, `frames`: the input size of the position embedding. For any other size the embedding is stretched or
      shrunk; an input smaller than one patch is filled up with zeros.
    - `patch`: (frames, bins), or one number for both. An incomplete patch at the end is cut off.
    - `stride`: (frames, bins) from patch to patch.
    - `mlp_width`: the width of the MLPs; None for 4 times the width.
    - `qkv_bias`: whether query, key and value have a bias.
    - `eps`: the eps of every LayerNorm.
    - `activation`: "gelu" (exact), "gelu_tanh", "relu" or "silu", in the MLPs.
    - `drop_path`: the rate of the last block; it rises linearly with depth from 0 at the first block.

    The feature map contains the patches only. Raises ValueError for a width that the heads do not divide.
    """

    patchify: Conv
    class_token: Float[Array, " width"]
    distillation_token: Float[Array, " width"]
    position_embedding: Float[Array, "tokens width"]  # class, distillation, patches: by bin, then by time
    blocks: tuple[TransformerBlock, ...]
    norm: LayerNorm
    width: int = eqx.field(static=True)
    grid: tuple[int, int] = eqx.field(static=True)  # patches over time and over freq in the position embedding

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        bins: int = 128,
        frames: int = 1024,
        patch: int | tuple[int, int] = 16,
        stride: tuple[int, int] = (10, 10),
        mlp_width: int | None = None,
        qkv_bias: bool = True,
        eps: float = 1e-12,
        activation: Activation = "gelu",
        drop_path: float = 0.0,
        key: PRNGKeyArray,
    ):
        patch = (patch, patch) if isinstance(patch, int) else patch
        if min(bins, frames, *patch, *stride) < 1:
            raise ValueError(
                "AST cuts frames x bins into patches and takes sizes of at least 1, got "
                f"frames={frames}, bins={bins}, patch={patch} and stride={stride}."
            )
        sizes = zip((frames, bins), patch, stride, strict=True)
        time, freq = (max(size - kernel, 0) // step + 1 for size, kernel, step in sizes)
        keys = split(key, depth + 4)
        self.patchify = Conv(1, width, patch, stride=stride, padding="valid", scale=0.02, key=keys[0])
        self.class_token = normal(keys[1], (width,), 0.02)
        self.distillation_token = normal(keys[2], (width,), 0.02)
        self.position_embedding = normal(keys[3], (2 + freq * time, width), 0.02)
        self.blocks = transformer_blocks(
            width,
            heads,
            mlp_width=mlp_width,
            qkv_bias=qkv_bias,
            eps=eps,
            activation=activation,
            drop_path=drop_path,
            keys=keys[4:],
        )
        self.norm = LayerNorm(width, eps=eps)
        self.width, self.grid = width, (time, freq)

    def features(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "time freq {self.width}"], eqx.nn.State]:
        tokens, freq = self._tokens(x, key)
        return _patches(self.norm(tokens[-1]), freq), state

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        tokens, freq = self._tokens(x, key)
        return tuple(_patches(y, freq) for y in tokens), state

    def __call__(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "{self.width}"], eqx.nn.State]:
        return jnp.mean(self.norm(self._tokens(x, key)[0][-1][:2]), axis=0), state

    def _tokens(
        self, x: Float[Array, "frames bins"], key: PRNGKeyArray | None
    ) -> tuple[list[Float[Array, "tokens {self.width}"]], int]:
        """The input of the blocks and the output of each block, and the number of patches over the bins."""
        patches = self.patchify(x[:, :, None])
        time, freq, width = patches.shape
        # The two tokens are added to zeros in front of the patches, together with their positions: a batch on a mesh
        # with Explicit axes can be padded, but not concatenated with an array that has no batch axis.
        y = jnp.pad(jnp.swapaxes(patches, 0, 1).reshape(freq * time, width), ((2, 0), (0, 0)))
        special = jnp.stack([self.class_token, self.distillation_token])
        y = y + self._position_embedding(time, freq) + jnp.pad(special, ((0, freq * time), (0, 0)))
        keys = split_key(key, len(self.blocks))
        tokens = [y]
        for block, block_key in zip(self.blocks, keys, strict=True):
            tokens.append(block(tokens[-1], key=block_key))
        return tokens, freq

    def _position_embedding(self, time: int, freq: int) -> Float[Array, "tokens {self.width}"]:
        if (time, freq) == self.grid:
            return self.position_embedding
        tokens, patches = self.position_embedding[:2], self.position_embedding[2:]
        # This is the interpolation of the paper's code, between the centres of the patches. `resize` would smooth
        # before it shrinks, but the weights were not trained with smoothing. With float32, bfloat16 is rounded only
        # once.
        maps = patches.astype(jnp.float32).reshape(self.grid[1], self.grid[0], self.width)
        maps = jax.image.resize(maps, (freq, time, self.width), "bilinear", antialias=False)
        return jnp.concatenate([tokens, maps.reshape(freq * time, self.width).astype(patches.dtype)])

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        return np.arange(time) * self.patchify.stride[0] + (self.patchify.weight.shape[0] - 1) / 2


def _patches(y: Float[Array, "tokens channels"], freq: int) -> Float[Array, "time {freq} channels"]:
    """The map of the patches, without the two tokens in front of them."""
    return jnp.swapaxes(y[2:].reshape(freq, -1, y.shape[-1]), 0, 1)


ast_tiny = partial(AST, 192, 12, 3)
ast_small = partial(AST, 384, 12, 6)
ast_base = partial(AST, 768, 12, 12)
