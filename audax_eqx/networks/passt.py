"""PaSST, "Efficient training of audio Transformers with patchout", Koutini et al., 2022, arXiv:2110.05069.

    tokens:  [class, distillation] + their positions, then overlapping 16x16 patches of the log-mel
             + position of the time + position of the frequency
    block:   x + attention(norm(x)), then x + contract(gelu(expand(norm(x))))
    end:     LayerNorm -> mean of the class and the distillation token

Patchout, which leaves out patches in training, is not implemented: it makes training cheaper, and no output of a
trained model depends on it.

AudioSet weights: the releases of https://github.com/kkoutini/PaSST (Apache-2.0), by `zoo.convert`.
"""

from functools import partial

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import Conv, LayerNorm, TransformerBlock, split_key, transformer_blocks
from ..layers.initial import normal, split


class PaSST(AbstractNetwork):
    """PaSST over `frames bins`; a step of the feature map is a patch, `stride` (frames, bins) from the previous patch.

    - `grid`: the number of positions over time and over the bins. A shorter input uses the first positions over time; a
      longer input is cut off.
    - `patch`: (frames, bins), or one number for both. An incomplete patch at the end is cut off; an input smaller than
      one patch is filled up with zeros.
    - `stride`: (frames, bins) from patch to patch.
    - `mlp_width`: the width of the MLPs; None for 4 times the width.
    - `qkv_bias`: whether query, key and value have a bias.
    - `drop_path`: the rate of the last block; it rises linearly with depth from 0 at the first block.

    The feature map contains the patches only. Raises ValueError for a width that the heads do not divide, and for bins
    whose number of patches is not that of the grid.
    """

    patchify: Conv
    class_token: Float[Array, " width"]
    distillation_token: Float[Array, " width"]
    token_embedding: Float[Array, "2 width"]
    time_embedding: Float[Array, "time width"]
    freq_embedding: Float[Array, "freq width"]
    blocks: tuple[TransformerBlock, ...]
    norm: LayerNorm
    width: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        grid: tuple[int, int] = (99, 12),
        patch: int | tuple[int, int] = 16,
        stride: tuple[int, int] = (10, 10),
        mlp_width: int | None = None,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        key: PRNGKeyArray,
    ):
        patch = (patch, patch) if isinstance(patch, int) else patch
        if min(*grid, *patch, *stride) < 1:
            raise ValueError(
                "PaSST cuts frames x bins into patches and takes sizes of at least 1, got "
                f"grid={grid}, patch={patch} and stride={stride}."
            )
        keys = split(key, depth + 6)
        self.patchify = Conv(1, width, patch, stride=stride, padding="valid", scale=0.02, key=keys[0])
        self.class_token = normal(keys[1], (width,), 0.02)
        self.distillation_token = normal(keys[2], (width,), 0.02)
        self.token_embedding = normal(keys[3], (2, width), 0.02)
        self.time_embedding = normal(keys[4], (grid[0], width), 0.02)
        self.freq_embedding = normal(keys[5], (grid[1], width), 0.02)
        self.blocks = transformer_blocks(
            width, heads, mlp_width=mlp_width, qkv_bias=qkv_bias, fused=True, drop_path=drop_path, keys=keys[6:]
        )
        self.norm = LayerNorm(width)
        self.width = width

    def features(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "time freq {self.width}"], eqx.nn.State]:
        return self._map(self.norm(self._tokens(x, key)[-1])), state

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        return tuple(map(self._map, self._tokens(x, key))), state

    def __call__(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "{self.width}"], eqx.nn.State]:
        return jnp.mean(self.norm(self._tokens(x, key)[-1][:2]), axis=0), state

    def _tokens(
        self, x: Float[Array, "frames bins"], key: PRNGKeyArray | None
    ) -> list[Float[Array, "tokens {self.width}"]]:
        """The input of the blocks and the output of each block."""
        times, freqs = len(self.time_embedding), len(self.freq_embedding)
        longest = (times - 1) * self.patchify.stride[0] + self.patchify.weight.shape[0]
        y = self.patchify(x[:longest, :, None])
        time, freq, width = y.shape
        if freq != freqs:
            raise ValueError(
                f"PaSST has positions for {freqs} patches over the bins, and {x.shape[1]} bins make {freq}: give a "
                "grid and a stride that fit the bins."
            )
        y = y + jnp.broadcast_to(self.time_embedding[:time, None], y.shape)
        y = y + jnp.broadcast_to(self.freq_embedding, y.shape)
        special = jnp.stack([self.class_token, self.distillation_token]) + self.token_embedding
        # The two tokens are added to zeros, as in AST.
        y = jnp.pad(y.reshape(time * freq, width), ((2, 0), (0, 0))) + jnp.pad(special, ((0, time * freq), (0, 0)))
        tokens = [y]
        for block, block_key in zip(self.blocks, split_key(key, len(self.blocks)), strict=True):
            tokens.append(block(tokens[-1], key=block_key))
        return tokens

    def _map(self, y: Float[Array, "tokens {self.width}"]) -> Float[Array, "time freq {self.width}"]:
        """The map of the patches, without the two tokens in front of them."""
        return y[2:].reshape(-1, len(self.freq_embedding), self.width)

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        return np.arange(time) * self.patchify.stride[0] + (self.patchify.weight.shape[0] - 1) / 2


passt = partial(PaSST, 768, 12, 12)
