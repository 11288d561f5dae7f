"""The ResNets of "PANNs: Large-Scale Pretrained Audio Neural Networks", Kong et al., 2020, arXiv:1912.10211.

    pair:   relu(norm(3x3(relu(norm(3x3(x))))))
    stem:   pair -> 2x2 mean -> dropout
    block:  x = 2x2 mean(x), in the first block of each stage except the first stage
            relu(shortcut(x) + norm(3x3(dropout(relu(norm(3x3(x)))))))
    end:    2x2 mean -> dropout -> pair -> dropout
            -> mean over freq -> mean + maximum over time -> dropout -> linear -> ReLU

A mean in front of both branches replaces the stride of He et al.'s convolutions.

AudioSet weights: https://huggingface.co/nicofarr/panns_ResNet22 (Apache-2.0), a mirror of
https://zenodo.org/records/3987831 (CC-BY-4.0); in the zoo as `panns_resnet22_audioset`.
"""

from collections.abc import Iterator
from functools import partial

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import Maps
from ..layers import BatchNorm, Conv, ConvBlock, Linear, mean_pool, pointwise, split_key
from ..layers.initial import split
from .cnn import AbstractPANNs

Keys = Iterator[PRNGKeyArray]
Map = Float[Array, "time freq channels"]
Smaller = Float[Array, "newtime newfreq newchannels"]


class Shortcut(eqx.Module):
    """Gives the input the channels of the branch: a 1x1 convolution, then BatchNorm."""

    conv: Linear
    norm: BatchNorm

    def __init__(self, inputs: int, outputs: int, keys: Keys):
        self.conv = pointwise(inputs, outputs, key=next(keys))
        self.norm = BatchNorm(outputs)

    def __call__(self, x: Map, state: eqx.nn.State) -> tuple[Smaller, eqx.nn.State]:
        return self.norm(self.conv(x), state)


class Basic(eqx.Module):
    """Two 3x3 convolutions. The initial weight of the last norm is 0, so that training starts from the identity."""

    conv1: Conv
    norm1: BatchNorm
    dropout: eqx.nn.Dropout
    conv2: Conv
    norm2: BatchNorm
    shortcut: Shortcut | None
    pool: int = eqx.field(static=True)

    def __init__(self, inputs: int, width: int, pool: int, dropout: float, keys: Keys):
        self.conv1 = Conv(inputs, width, (3, 3), bias=False, key=next(keys))
        self.norm1 = BatchNorm(width)
        self.dropout = eqx.nn.Dropout(dropout)
        self.conv2 = Conv(width, width, (3, 3), bias=False, key=next(keys))
        self.norm2 = BatchNorm(width, scale=0.0)
        self.shortcut = Shortcut(inputs, width, keys) if pool > 1 or inputs != width else None
        self.pool = pool

    def __call__(self, x: Map, state: eqx.nn.State, *, key: PRNGKeyArray | None = None) -> tuple[Smaller, eqx.nn.State]:
        x = mean_pool(x, self.pool)
        y, state = self.norm1(self.conv1(x), state)
        y = self.dropout(jax.nn.relu(y), key=key)
        y, state = self.norm2(self.conv2(y), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class PANNsResNet(AbstractPANNs):
    """PANNs' ResNet over a one-channel map of `frames bins`.

    A step of the stem's map is two frames by two bins, and each later stage doubles both; incomplete steps are cut off.

    - `depths`: the number of blocks of each stage.
    - `widths`: the channels of each stage. The stem has the channels of the first stage, the end four times those of
      the last.
    - `embedding`: the width of the embedding; None for that of the end.
    - `input_norm`: the number of bins of a BatchNorm over the bins of the input; None for no norm.
    - `dropout`: the rate after the stem, in front of the end's convolutions and after them.
    - `block_dropout`: the rate between the convolutions of a block.
    - `embedding_dropout`: the rate in front of the linear map that gives the embedding.
    """

    input_norm: BatchNorm | None
    stem: ConvBlock
    stages: tuple[tuple[Basic, ...], ...]
    end: ConvBlock
    dropout: eqx.nn.Dropout
    embedding_dropout: eqx.nn.Dropout
    embed: Linear
    width: int = eqx.field(static=True)

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512),
        *,
        embedding: int | None = None,
        input_norm: int | None = None,
        dropout: float = 0.2,
        block_dropout: float = 0.1,
        embedding_dropout: float = 0.5,
        key: PRNGKeyArray,
    ):
        if not len(depths) == len(widths) > 0 or min(*depths, *widths) < 1:
            raise ValueError(f"PANNsResNet takes as many depths as widths, all at least 1, got {depths} and {widths}.")
        keys, end = iter(split(key, 3 * sum(depths) + 3)), 4 * widths[-1]
        self.width = end if embedding is None else embedding
        self.input_norm = None if input_norm is None else BatchNorm(input_norm)
        self.stem = ConvBlock(1, widths[0], key=next(keys))
        inputs = (widths[0], *widths)
        self.stages = tuple(
            tuple(
                Basic(before if block == 0 else width, width, 2 if block == 0 and stage else 1, block_dropout, keys)
                for block in range(depth)
            )
            for stage, (before, width, depth) in enumerate(zip(inputs, widths, depths, strict=False))
        )
        self.end = ConvBlock(widths[-1], end, key=next(keys))
        self.dropout, self.embedding_dropout = eqx.nn.Dropout(dropout), eqx.nn.Dropout(embedding_dropout)
        self.embed = Linear(end, self.width, scale=(2 / self.width) ** 0.5, key=next(keys))

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        if self.input_norm is not None:
            x, state = self.input_norm(x, state)
        keys = split_key(key, sum(map(len, self.stages)) + 3)
        y, state = self.stem(x[:, :, None], state)
        y = self.dropout(mean_pool(y, 2), key=keys[0])
        block_keys, maps = iter(keys[3:]), []
        for stage in self.stages:
            for block in stage:
                y, state = block(y, state, key=next(block_keys))
            maps.append(y)
        y = self.dropout(mean_pool(y, 2), key=keys[1])
        y, state = self.end(y, state)
        return (*maps, self.dropout(y, key=keys[2])), state

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        stride = 2 * 2 ** range(len(self.stages) + 1)[layer]
        return np.arange(time) * stride + (stride - 1) / 2


resnet22 = partial(PANNsResNet, (2, 2, 2, 2))
resnet38 = partial(PANNsResNet, (3, 4, 6, 3))
