"""ConvNeXt, "A ConvNet for the 2020s", Liu et al., 2022, arXiv:2201.03545; for audio, Pellegrini et al., 2023.

    stem:   4x4 patches -> LayerNorm
    stage:  (LayerNorm -> 2x2 patches, between stages) -> blocks
    block:  x + drop_path(layer_scale * contract(gelu(expand(norm(depthwise(x))))))
    end:    pool over time and freq -> LayerNorm

AudioSet weights: https://huggingface.co/topel/ConvNeXt-Tiny-AT (MIT), in the zoo as `convnext_audioset`.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import BatchNorm, Depthwise, DropPath, LayerNorm, Linear, Patchify, activate, mean_max, split_key
from ..layers.initial import full, split

Keys = Iterator[PRNGKeyArray]


class Block(eqx.Module):
    """7x7 depthwise convolution, then an MLP of four times the channels at each position, on a residual branch."""

    depthwise: Depthwise
    norm: LayerNorm
    expand: Linear
    contract: Linear
    layer_scale: Float[Array, " channels"]
    drop_path: DropPath
    gelu: Literal["exact", "tanh"] = eqx.field(static=True)

    def __init__(self, channels: int, drop_path: float, layer_scale: float, gelu: Literal["exact", "tanh"], keys: Keys):
        self.depthwise = Depthwise(channels, (7, 7), key=next(keys))
        self.norm = LayerNorm(channels)
        self.expand = Linear(channels, 4 * channels, key=next(keys))
        self.contract = Linear(4 * channels, channels, key=next(keys))
        self.layer_scale = full(channels, layer_scale)
        self.drop_path = DropPath(drop_path)
        self.gelu = gelu

    def __call__(
        self, x: Float[Array, "time freq channels"], *, key: PRNGKeyArray | None
    ) -> Float[Array, "time freq channels"]:
        y = self.expand(self.norm(self.depthwise(x)))
        y = self.contract(activate(y, "gelu" if self.gelu == "exact" else "gelu_tanh"))
        y = y * jnp.broadcast_to(self.layer_scale, y.shape)
        return x + self.drop_path(y, key=key)


class Stem(eqx.Module):
    """4x4 patches of the one-channel map, then LayerNorm."""

    patchify: Patchify
    norm: LayerNorm

    def __init__(self, channels: int, padding: tuple[int, int], keys: Keys):
        self.patchify = Patchify(1, channels, (4, 4), padding=padding, key=next(keys))
        self.norm = LayerNorm(channels)

    def __call__(self, x: Float[Array, "time freq 1"]) -> Float[Array, "newtime newfreq channels"]:
        return self.norm(self.patchify(x))


class Downsample(eqx.Module):
    """LayerNorm, then 2x2 patches."""

    norm: LayerNorm
    patchify: Patchify

    def __init__(self, inputs: int, outputs: int, keys: Keys):
        self.norm = LayerNorm(inputs)
        self.patchify = Patchify(inputs, outputs, (2, 2), key=next(keys))

    def __call__(self, x: Float[Array, "time freq inputs"]) -> Float[Array, "newtime newfreq outputs"]:
        return self.patchify(self.norm(x))


class Stage(eqx.Module):
    """A stem or a downsampling, which gives the map its width, and blocks of this width."""

    reduce: Stem | Downsample
    blocks: tuple[Block, ...]

    def __call__(
        self, x: Float[Array, "time freq inputs"], *, key: PRNGKeyArray | None
    ) -> Float[Array, "newtime newfreq channels"]:
        x = self.reduce(x)
        keys = split_key(key, len(self.blocks))
        for block, block_key in zip(self.blocks, keys, strict=True):
            x = block(x, key=block_key)
        return x


class ConvNeXt(AbstractNetwork):
    """ConvNeXt over a one-channel map of `frames bins`; a step of the feature map is 32 frames by 32 bins.

    - `input_norm`: the number of bins of a BatchNorm over the bins of the input; None for no norm.
    - `drop_path`: the rate of the last block; it rises linearly with depth from 0 at the first block.
    - `layer_scale`: the initial scale of the residual branches.
    - `stem_padding`: the number of zeros before and after (frames, bins) in the stem.
    - `pool`: "mean" or "max" over time and freq, or "mean_max": the mean over freq, then mean plus maximum over time.
    - `final_norm`: whether a LayerNorm follows the pooling.
    - `gelu`: "exact" (torch) or "tanh" (Flax).
    """

    input_norm: BatchNorm | None
    stages: tuple[Stage, ...]
    norm: LayerNorm | None
    width: int = eqx.field(static=True)
    pool: Literal["mean", "max", "mean_max"] = eqx.field(static=True)
    stem_padding: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        *,
        input_norm: int | None = None,
        drop_path: float = 0.0,
        layer_scale: float = 1e-6,
        stem_padding: tuple[int, int] = (0, 0),
        pool: Literal["mean", "max", "mean_max"] = "mean",
        final_norm: bool = True,
        gelu: Literal["exact", "tanh"] = "exact",
        key: PRNGKeyArray,
    ):
        if not len(depths) == len(widths) > 0 or min(widths) < 1:
            raise ValueError(f"ConvNeXt takes as many depths as widths, got {depths} and {widths}.")
        keys = iter(split(key, 3 * sum(depths) + len(depths)))
        rates = iter(np.linspace(0.0, drop_path, sum(depths)).tolist())
        self.input_norm = None if input_norm is None else BatchNorm(input_norm)
        reduces = [Stem(widths[0], stem_padding, keys)]
        reduces += [Downsample(inputs, outputs, keys) for inputs, outputs in itertools.pairwise(widths)]
        self.stages = tuple(
            Stage(reduce, tuple(Block(width, next(rates), layer_scale, gelu, keys) for _ in range(depth)))
            for reduce, depth, width in zip(reduces, depths, widths, strict=True)
        )
        self.norm = LayerNorm(widths[-1]) if final_norm else None
        self.width, self.pool, self.stem_padding = widths[-1], pool, stem_padding

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        if self.input_norm is not None:
            x, state = self.input_norm(x, state)
        keys = split_key(key, len(self.stages))
        maps = []
        for stage, stage_key in zip(self.stages, keys, strict=True):
            maps.append(stage(maps[-1] if maps else x[:, :, None], key=stage_key))
        return tuple(maps), state

    def pool_map(self, y: Float[Array, "time freq {self.width}"]) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map."""
        match self.pool:
            case "mean":
                y = jnp.mean(y, axis=(0, 1))
            case "max":
                y = jnp.max(y, axis=(0, 1))
            case "mean_max":
                y = mean_max(y)
        return y if self.norm is None else self.norm(y)

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        stride = 4 * 2 ** range(len(self.stages))[layer]
        return np.arange(time) * stride + (stride - 1) / 2 - self.stem_padding[0]


convnext_atto = partial(ConvNeXt, (2, 2, 6, 2), (40, 80, 160, 320))
convnext_femto = partial(ConvNeXt, (2, 2, 6, 2), (48, 96, 192, 384))
convnext_pico = partial(ConvNeXt, (2, 2, 6, 2), (64, 128, 256, 512))
convnext_nano = partial(ConvNeXt, (2, 2, 8, 2), (80, 160, 320, 640))
convnext_tiny = partial(ConvNeXt, (3, 3, 9, 3), (96, 192, 384, 768))
convnext_small = partial(ConvNeXt, (3, 3, 27, 3), (96, 192, 384, 768))
convnext_base = partial(ConvNeXt, (3, 3, 27, 3), (128, 256, 512, 1024))
convnext_large = partial(ConvNeXt, (3, 3, 27, 3), (192, 384, 768, 1536))
convnext_xlarge = partial(ConvNeXt, (3, 3, 27, 3), (256, 512, 1024, 2048))
