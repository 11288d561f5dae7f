"""CED, "Consistent ensemble distillation for audio tagging", Dinkel et al., 2023, arXiv:2308.11957: a plain ViT.

    tokens:  16x16 patches of the normalised log-mel + embedding of the time + embedding of the frequency
    block:   x + attention(norm(x)), then x + contract(gelu(expand(norm(x))))
    end:     LayerNorm -> mean of all tokens

AudioSet weights: https://huggingface.co/mispeech/ced-tiny, -mini, -small and -base (Apache-2.0), in the zoo as
`ced_tiny_audioset` and so on.

Dasheng, "Scaling up masked audio encoder learning", Dinkel et al., 2024, arXiv:2406.06992, is the same with patches of
4 frames and all bins: https://huggingface.co/mispeech/dasheng-base (Apache-2.0), in the zoo as `dasheng_base`.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import BatchNorm, LayerNorm, Patchify, TransformerBlock, split_key, transformer_blocks
from ..layers.initial import normal, split


class CED(AbstractNetwork):
    """CED over `frames bins`; a step of the feature map is a patch.

    - `bins`, `frames`: the size of the position embeddings. `frames` is also the longest chunk: a longer input is cut
      into chunks of `frames` frames, which do not attend to each other. The mean is over the tokens of all chunks.
    - `fill`: whether the last chunk is filled up with zeros, whose tokens are part of the mean, as in CED. Dasheng does
      not fill it up.
    - `patch`: (frames, bins), or one number for both. An incomplete patch at the end of a chunk is cut off; an input
      shorter than a patch is filled up with zeros.
    - `mlp_width`: the width of the MLPs; None for 4 times the width.
    - `qkv_bias`: whether query, key and value have a bias.
    - `drop_path`: the rate of the last block; it rises linearly with depth from 0 at the first block.

    Raises ValueError for a width that the heads do not divide.
    """

    input_norm: BatchNorm
    patchify: Patchify
    time_embedding: Float[Array, "time width"]  # one row for each step of a chunk
    freq_embedding: Float[Array, "freq width"]
    blocks: tuple[TransformerBlock, ...]
    norm: LayerNorm
    width: int = eqx.field(static=True)
    frames: int = eqx.field(static=True)
    fill: bool = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        bins: int = 64,
        frames: int = 1012,
        patch: int | tuple[int, int] = 16,
        fill: bool = True,
        mlp_width: int | None = None,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        key: PRNGKeyArray,
    ):
        patch = (patch, patch) if isinstance(patch, int) else patch
        if min(bins, frames, *patch) < 1:
            raise ValueError(
                "CED cuts frames x bins into patches and takes sizes of at least 1, got "
                f"frames={frames}, bins={bins} and patch={patch}."
            )
        keys = split(key, depth + 3)
        self.input_norm = BatchNorm(bins, momentum=0.01)
        self.patchify = Patchify(1, width, patch, key=keys[0])
        self.time_embedding = normal(keys[1], (max(frames // patch[0], 1), width), 0.02)
        self.freq_embedding = normal(keys[2], (max(bins // patch[1], 1), width), 0.02)
        self.blocks = transformer_blocks(
            width,
            heads,
            mlp_width=mlp_width,
            qkv_bias=qkv_bias,
            fused=True,
            drop_path=drop_path,
            keys=keys[3:],
        )
        self.norm = LayerNorm(width)
        self.width, self.frames, self.fill = width, frames, fill

    def features(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "time freq {self.width}"], eqx.nn.State]:
        maps, state = self.layers(x, state, key=key)
        return self.norm(maps[-1]), state

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        x, state = self.input_norm(x, state)
        chunks, rest = x[None], x[:0]
        if len(x) > self.frames:
            count = -(-len(x) // self.frames) if self.fill else len(x) // self.frames
            whole, rest = x[: count * self.frames], x[count * self.frames :]
            whole = jnp.pad(whole, ((0, count * self.frames - len(whole)), (0, 0)))
            chunks = whole.reshape(count, self.frames, -1)
        first_key, last_key = split_key(key, 2)
        keys = None if first_key is None else jax.random.split(first_key, len(chunks))
        maps = tuple(y.reshape(-1, *y.shape[2:]) for y in jax.vmap(self._encode)(chunks, keys))
        if len(rest) >= self.patchify.weight.shape[0]:
            last = self._encode(rest, last_key)
            maps = tuple(map(jnp.concatenate, zip(maps, last, strict=True)))
        return maps, state

    def _encode(self, x: Float[Array, "frames bins"], key: PRNGKeyArray | None) -> Maps:
        """The maps of one chunk of the normalised input."""
        y = self.patchify(x[:, :, None])
        y = y + jnp.broadcast_to(self.time_embedding[: len(y), None], y.shape)
        y = y + jnp.broadcast_to(self.freq_embedding, y.shape)
        time, freq, width = y.shape
        tokens = [y.reshape(time * freq, width)]  # in any order: the embeddings alone tell the position
        keys = split_key(key, len(self.blocks))
        for block, block_key in zip(self.blocks, keys, strict=True):
            tokens.append(block(tokens[-1], key=block_key))
        return tuple(token_map.reshape(time, freq, width) for token_map in tokens)

    def pool_map(self, y: Float[Array, "time freq {self.width}"]) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map."""
        return jnp.mean(y, axis=(0, 1))

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        patch = self.patchify.weight.shape[0]
        chunk, step = np.divmod(np.arange(time), len(self.time_embedding))
        return chunk * self.frames + step * patch + (patch - 1) / 2


ced_tiny = partial(CED, 192, 12, 3)
ced_mini = partial(CED, 256, 12, 4)
ced_small = partial(CED, 384, 12, 6)
ced_base = partial(CED, 768, 12, 12)
dasheng_base = partial(CED, 768, 12, 12, frames=1008, patch=(4, 64), fill=False)
dasheng_06b = partial(CED, 1280, 32, 16, frames=1008, patch=(4, 64), fill=False)
dasheng_12b = partial(CED, 1536, 40, 24, frames=1008, patch=(4, 64), fill=False)
