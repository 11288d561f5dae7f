"""The r-vector, "BUT System Description to VoxCeleb Speaker Recognition Challenge 2019", Zeinali et al., 2019,
arXiv:1910.12592, as in WeSpeaker, Wang et al., 2023, arXiv:2210.17016: a narrow ResNet that tells who speaks.

    stem:       3x3 convolution -> BatchNorm -> ReLU, at full size
    stages:     blocks of ResNet; each stage but the first halves the map and doubles the channels
    statistics: mean and deviation over time of each channel in each bin
    embedding:  a linear map of the statistics

The deviation is that of a sample: the variance is divided by the number of steps minus one, as in pyannote.audio.
WeSpeaker's own code adds 1e-7 to the variance.

Weights: https://huggingface.co/pyannote/wespeaker-voxceleb-resnet34-LM (CC-BY-4.0).
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import BatchNorm, Conv, Length, Linear, within, zero_behind
from ..layers.initial import split
from .resnet import Basic, Bottleneck, fewer, residual_stages

State = eqx.nn.State
STAGES = 8  # the largest number of stages; each stage has twice as many channels as the previous one


class WeSpeaker(AbstractNetwork):
    """Maps `frames bins` to an embedding of the speaker.

    - `depths`: the number of blocks of each stage.
    - `width`: the width of the embedding.
    - `channels`: the channels of the stem and of the first stage's 3x3 convolutions; each stage has twice as many as
      the previous one.
    - `bins`: the bins of the input.
    - `bottleneck`: whether blocks are bottlenecks, which have four times as many outputs, or basic.

    With four stages a step of the feature map is 8 frames by 8 bins. The deviation of a map of one step is 0. Raises
    ValueError for sizes that make no network.
    """

    stem: Conv
    norm: BatchNorm
    stages: tuple[tuple[Basic | Bottleneck, ...], ...]
    embed: Linear
    width: int = eqx.field(static=True)
    bins: int = eqx.field(static=True)

    def __init__(
        self,
        depths: tuple[int, ...],
        width: int = 256,
        channels: int = 32,
        *,
        bins: int = 80,
        bottleneck: bool = False,
        key: PRNGKeyArray,
    ):
        if not 1 <= len(depths) <= STAGES or min(*depths, width, channels, bins) < 1:
            raise ValueError(
                f"WeSpeaker takes 1 to {STAGES} depths, a width, channels and bins, all of at least 1, got "
                f"depths={depths}, width={width}, channels={channels} and bins={bins}."
            )
        keys = iter(split(key, 4 * sum(depths) + 2))
        self.stem = Conv(1, channels, (3, 3), bias=False, key=next(keys))
        self.norm = BatchNorm(channels)
        widths = tuple(channels * 2**stage for stage in range(len(depths)))
        self.stages, outputs = residual_stages(depths, widths, bottleneck, "symmetric", keys)
        height = -(-bins // 2 ** (len(depths) - 1))
        self.embed = Linear(2 * outputs * height, width, key=next(keys))
        self.width, self.bins = width, bins

    @property
    def takes_length(self) -> bool:
        return True

    def steps(self, frames: int | Int[Array, ""]) -> int | Int[Array, ""]:
        return -(-frames // 2 ** (len(self.stages) - 1))

    def layers(
        self,
        x: Float[Array, "frames bins"],
        state: State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Maps, State]:
        y, state = self.norm(self.stem(zero_behind(x, length)[:, :, None]), state)
        y, maps = jax.nn.relu(y), []
        for index, stage in enumerate(self.stages):
            for block in stage:
                y, state = block(y, state, length=length)
                length = fewer(length, 2 if index and block is stage[0] else 1)
            maps.append(y)
        return tuple(maps), state

    def __call__(
        self,
        x: Float[Array, "frames bins"],
        state: State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.width}"], State]:
        y, state = self.features(x, state, length=length, key=key)
        return self.embed(statistics(y, None if length is None else self.steps(length))), state

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        return np.arange(time) * 2.0 ** range(len(self.stages))[layer]


def statistics(y: Float[Array, "time freq channels"], steps: Length = None) -> Float[Array, " statistics"]:
    """The means over the first `steps`, at least one, then the deviations. Both are ordered by channel, then by bin, as
    in the published files."""
    wide = y.astype(jnp.float32).swapaxes(1, 2).reshape(len(y), -1)
    inside = within(len(y), None if steps is None else jnp.maximum(steps, 1))[:, None]
    count = jnp.sum(inside, dtype=jnp.float32)
    mean = jnp.sum(wide, axis=0, where=inside) / count
    distance = jnp.sum(jnp.square(wide - mean[None]), axis=0, where=inside)
    variance = distance / jnp.maximum(count - 1.0, 1.0)
    deviation = jnp.where(variance > 0.0, jnp.sqrt(jnp.where(variance > 0.0, variance, 1.0)), 0.0)
    return jnp.concatenate([mean, deviation]).astype(y.dtype)


wespeaker_resnet34 = partial(WeSpeaker, (3, 4, 6, 3))
wespeaker_resnet152 = partial(WeSpeaker, (3, 8, 36, 3), bottleneck=True)
wespeaker_resnet221 = partial(WeSpeaker, (6, 16, 48, 3), bottleneck=True)
wespeaker_resnet293 = partial(WeSpeaker, (10, 20, 64, 3), bottleneck=True)
