"""wav2vec 2.0, Baevski et al., 2020, arXiv:2006.11477, and the networks that share its body:
HuBERT, Hsu et al., 2021, arXiv:2106.07447; WavLM, Chen et al., 2021, arXiv:2110.13900; XLS-R, Babu et al., 2021,
arXiv:2111.09296; data2vec, Baevski et al., 2022, arXiv:2202.03555.

    tokens:  h = linear(norm(frame)), h + gelu(128 tokens in 16 groups(h)), one for each frame
    base:    norm, then blocks norm(x + attention(x)), norm(x + mlp(x))
    large:   blocks x + attention(norm(x)), x + mlp(norm(x)), then norm
    WavLM:   attention with a bias by distance, gated by the content of each token
    end:     mean of the recording's tokens

Weights: https://huggingface.co/facebook/wav2vec2-base, facebook/hubert-base-ls960, facebook/wav2vec2-xls-r-300m,
facebook/data2vec-audio-base (Apache-2.0), and microsoft/wavlm-base-plus (MIT or CC BY-SA 3.0: the publisher states
both).
"""

from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._portable import by_platform
from ..abstract import AbstractNetwork, Maps
from ..layers import (
    Activation,
    LayerNorm,
    Length,
    Linear,
    TransformerBlock,
    activate,
    mean_first,
    relative_bias,
    split_key,
    transformer_blocks,
    zero_behind,
)
from ..layers.initial import full, normal, split


class PositionalConv(eqx.Module):
    """A convolution over time in groups of channels, which tells each token its position; the number of steps stays the
    same.

    With weight norm the kernel is divided by its norm at each tap and multiplied by `scale` (Salimans and Kingma, 2016,
    arXiv:1602.07868).
    """

    weight: Float[Array, "kernel inputs channels"]
    bias: Float[Array, " channels"]
    scale: Float[Array, " kernel"] | None
    groups: int = eqx.field(static=True)

    def __init__(self, channels: int, kernel: int, groups: int, *, weight_norm: bool, key: PRNGKeyArray):
        if groups < 1 or channels % groups or kernel < 1:
            raise ValueError(
                f"PositionalConv takes a kernel of at least 1 and groups that divide its {channels} channels, got "
                f"{kernel} and {groups}."
            )
        deviation = (4 / (kernel * channels)) ** 0.5
        self.weight = normal(key, (kernel, channels // groups, channels), deviation)
        self.bias = full(channels, 0.0)
        self.scale = full(kernel, deviation * channels / groups**0.5) if weight_norm else None
        self.groups = groups

    def __call__(self, x: Float[Array, "time channels"]) -> Float[Array, "time channels"]:
        kernel = self.weight.astype(jnp.float32)
        if self.scale is not None:
            norm = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=(1, 2), keepdims=True))
            kernel = kernel * (self.scale.astype(jnp.float32)[:, None, None] / norm)
        kernel = kernel.astype(x.dtype)
        convolve = partial(_convolve, groups=self.groups)
        y = by_platform(x, kernel, cpu=partial(_convolve_groups, groups=self.groups), default=convolve)
        return y + jnp.broadcast_to(self.bias, y.shape)


def _convolve(x: Array, kernel: Array, groups: int) -> Array:
    around = [(len(kernel) // 2, (len(kernel) - 1) // 2)]
    return jax.lax.conv_general_dilated(
        x[None], kernel, (1,), around, dimension_numbers=("NHC", "HIO", "NHC"), feature_group_count=groups
    )[0]


def _convolve_groups(x: Array, kernel: Array, groups: int) -> Array:
    """Convolves one group after the other, which takes half the time on CPU."""
    pairs = zip(jnp.split(x, groups, axis=1), jnp.split(kernel, groups, axis=2), strict=True)
    return jnp.concatenate([_convolve(*pair, groups=1) for pair in pairs], axis=1)


class Wav2Vec2(AbstractNetwork):
    """The Transformer over `frames bins`; a step of the feature map is a frame.

    - `bins`: the bins of the input.
    - `input_norm`: whether a LayerNorm over the bins comes first.
    - `project`: whether a linear map makes `width` channels of the bins; without it the input has `width` bins.
    - `norm_first`: whether the blocks begin with their norms, as in large models, or end with them.
    - `deep_norm`: whether blocks multiply the input that they add to each branch by (2 depth)^(1/4); only for blocks
      that end with norms.
    - `kernel`, `groups`, `position_layers`: the taps, the groups and the number of the positional convolutions. A
      single one has weight norm; several, as in data2vec, have a LayerNorm each.
    - `buckets`, `max_distance`: the options of WavLM's bias by distance; `buckets` None for no bias.
    - `gate`: the source of the gates of that bias, the "input" of the attention or its "query"; None for no gate.
    - `mlp_width`: the width of the MLPs; None for 4 times the width.
    - `eps`: the eps of every LayerNorm.
    - `activation`, `position_activation`: "gelu" (exact), "gelu_tanh", "relu" or "silu", in the MLPs and behind the
      convolutions.
    - `drop_path`: the rate of the last block; it rises linearly with depth from 0 at the first block.

    Raises ValueError for a width that the heads or groups do not divide.
    """

    input_norm: LayerNorm | None
    project: Linear | None
    positional: tuple[PositionalConv, ...]
    norm: LayerNorm
    distance_bias: Float[Array, "buckets heads"] | None
    blocks: tuple[TransformerBlock, ...]
    width: int = eqx.field(static=True)
    norm_first: bool = eqx.field(static=True)
    max_distance: int = eqx.field(static=True)
    position_activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        bins: int = 512,
        input_norm: bool = True,
        project: bool = True,
        norm_first: bool = False,
        deep_norm: bool = False,
        kernel: int = 128,
        groups: int = 16,
        position_layers: int = 1,
        buckets: int | None = None,
        max_distance: int = 800,
        gate: Literal["input", "query"] | None = "input",
        mlp_width: int | None = None,
        eps: float = 1e-5,
        activation: Activation = "gelu",
        position_activation: Activation = "gelu",
        drop_path: float = 0.0,
        key: PRNGKeyArray,
    ):
        if min(bins, position_layers) < 1 or (buckets is not None and not 4 <= buckets < 4 * max_distance):
            raise ValueError(
                "Wav2Vec2 takes at least 1 bin and 1 position layer, and 4 <= buckets < 4 * max_distance, "
                f"got bins={bins}, position_layers={position_layers}, buckets={buckets}, max_distance={max_distance}."
            )
        if (deep_norm and norm_first) or not (project or bins == width):
            raise ValueError(
                "Wav2Vec2 takes deep_norm only with norm_first=False, and project=False with as many bins as its width,"
                f" got norm_first={norm_first}, {bins} bins and the width {width}."
            )
        keys = iter(split(key, depth + position_layers + 2))
        self.input_norm = LayerNorm(bins, eps=eps) if input_norm else None
        project_key = next(keys)
        self.project = Linear(bins, width, key=project_key) if project else None
        self.positional = tuple(
            PositionalConv(width, kernel, groups, weight_norm=position_layers == 1, key=next(keys))
            for _ in range(position_layers)
        )
        self.norm = LayerNorm(width, eps=eps)
        self.distance_bias = None if buckets is None else normal(next(keys), (buckets, heads), 0.02)
        self.blocks = transformer_blocks(
            width,
            heads,
            mlp_width=mlp_width,
            norm_first=norm_first,
            gate=None if buckets is None else gate,
            eps=eps,
            activation=activation,
            residual_scale=(2 * depth) ** 0.25 if deep_norm else 1.0,
            drop_path=drop_path,
            keys=[next(keys) for _ in range(depth)],
        )
        self.width, self.norm_first = width, norm_first
        self.max_distance, self.position_activation = max_distance, position_activation

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
        y = x if self.input_norm is None else self.input_norm(x)
        y = zero_behind(y if self.project is None else self.project(y), length)
        y = y + self._positions(y, length)
        tokens = [y if self.norm_first else self.norm(y)]
        bias = None if self.distance_bias is None else relative_bias(self.distance_bias, len(y), self.max_distance)
        keys = split_key(key, len(self.blocks))
        for block, block_key in zip(self.blocks, keys, strict=True):
            tokens.append(block(tokens[-1], length=length, bias=bias, key=block_key))
        return tuple(y[:, None] for y in tokens), state

    def _positions(self, x: Float[Array, "time channels"], length: Length) -> Float[Array, "time channels"]:
        for conv in self.positional:
            x = conv(x)
            if len(self.positional) > 1:
                wide = x.astype(jnp.float32)
                wide = wide - jnp.mean(wide, axis=1, keepdims=True)
                x = (wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=1, keepdims=True) + 1e-5)).astype(x.dtype)
            x = zero_behind(activate(x, self.position_activation), length)
        return x

    def features(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "time 1 {self.width}"], eqx.nn.State]:
        maps, state = self.layers(x, state, length=length, key=key)
        return self.norm(maps[-1]) if self.norm_first else maps[-1], state

    def pool_map(
        self, y: Float[Array, "time freq {self.width}"], *, length: Length = None
    ) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map, made from `length` frames of a recording."""
        return jnp.mean(mean_first(y, length), axis=0)

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        return np.arange(time, dtype=np.float64)


wav2vec2_base = partial(Wav2Vec2, 768, 12, 12)
wav2vec2_large = partial(Wav2Vec2, 1024, 24, 16, norm_first=True)
xls_r_1b = partial(Wav2Vec2, 1280, 48, 16, norm_first=True)
xls_r_2b = partial(Wav2Vec2, 1920, 48, 16, norm_first=True)
wavlm_base = partial(Wav2Vec2, 768, 12, 12, buckets=320)
wavlm_large = partial(Wav2Vec2, 1024, 24, 16, buckets=320, norm_first=True)
data2vec_audio_base = partial(Wav2Vec2, 768, 12, 12, kernel=19, position_layers=5)
data2vec_audio_large = partial(Wav2Vec2, 1024, 24, 16, kernel=19, position_layers=5)
