"""The r-vector, "BUT System Description to VoxCeleb Speaker Recognition Challenge 2019", Zeinali et al., 2019,
arXiv:1910.12592, as WeSpeaker has it, Wang et al., 2023, arXiv:2210.17016: who speaks, by a narrow ResNet.

    stem:       3x3 convolution -> BatchNorm -> ReLU, at full size
    stages:     blocks of ResNet's, each stage but the first halves the map and doubles the channels
    statistics: mean and deviation over time of each channel in each bin
    embedding:  a linear map of these

The deviation is that of a sample, whose variance is divided by one less than the steps, as in pyannote.audio.
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
from .resnet import Basic, Bottleneck, fewer

State = eqx.nn.State
STAGES = 8  # each has twice as many channels as the one before


class WeSpeaker(AbstractNetwork):
    """`frames bins` to an embedding of who speaks.

    - `depths`: the number of blocks of each stage.
    - `width`: of the embedding.
    - `channels`: of the stem and the first stage's 3x3 convolutions; each stage has twice as many as the one before.
    - `bins`: of the features.
    - `bottleneck`: whether blocks are bottlenecks, which give out four times their width, or basic.

    A step of the feature map is 8 frames by 8 bins where there are four stages. Of a map of one step the deviation is
    0. Raises ValueError for sizes that make no network.
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
        make, factor = (Bottleneck, 4) if bottleneck else (Basic, 1)
        self.stem = Conv(1, channels, (3, 3), bias=False, key=next(keys))
        self.norm = BatchNorm(channels)
        inputs, stages = channels, []
        for stage, depth in enumerate(depths):
            blocks, planes = [], channels * 2**stage
            for block in range(depth):
                blocks.append(make(inputs, planes, 2 if block == 0 and stage else 1, "symmetric", keys))
                inputs = factor * planes
            stages.append(tuple(blocks))
        self.stages = tuple(stages)
        height = -(-bins // 2 ** (len(depths) - 1))
        self.embed = Linear(2 * inputs * height, width, key=next(keys))
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

    def features(
        self,
        x: Float[Array, "frames bins"],
        state: State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "time freq channels"], State]:
        maps, state = self.layers(x, state, length=length, key=key)
        return maps[-1], state

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
    """The means over the first `steps`, at least one, and behind them the deviations: of the bins of the first channel,
    of the second, and so on, as in the published files."""
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
