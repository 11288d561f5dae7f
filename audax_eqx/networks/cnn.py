"""CNN10 and CNN14, "PANNs: Large-Scale Pretrained Audio Neural Networks", Kong et al., 2020, arXiv:1912.10211.

    block:  dropout(2x2 mean(relu(norm(3x3(relu(norm(3x3(x))))))))
    end:    mean over freq -> mean + maximum over time -> dropout -> linear -> ReLU

    | block    |  1 |   2 |   3 |   4 |    5 |                 6 |
    | channels | 64 | 128 | 256 | 512 | 1024 | 2048, not halved  |    CNN10 ends with the fourth block

AudioSet weights: https://huggingface.co/nicofarr/panns_Cnn14 and panns_Cnn10 (Apache-2.0), mirrors of
https://zenodo.org/records/3987831 (CC-BY-4.0); in the zoo as `panns_cnn14_audioset` and `panns_cnn10_audioset`.
"""

import itertools
import math
from functools import partial

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import BatchNorm, ConvBlock, Linear, mean_max, mean_pool, split_key
from ..layers.initial import split


class AbstractPANNs(AbstractNetwork):
    """A network with the end of all PANNs: mean over freq, mean + maximum over time, dropout, linear, ReLU."""

    embedding_dropout: eqx.AbstractVar[eqx.nn.Dropout]
    embed: eqx.AbstractVar[Linear]

    def __call__(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "{self.width}"], eqx.nn.State]:
        features_key, embedding_key = split_key(key, 2)
        y, state = self.features(x, state, key=features_key)
        return self.pool_map(y, key=embedding_key), state

    def pool_map(
        self, y: Float[Array, "time freq channels"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map."""
        return jax.nn.relu(self.embed(self.embedding_dropout(mean_max(y), key=key)))


class CNN(AbstractPANNs):
    """PANNs' CNN over a one-channel map of `frames bins`.

    A step of the feature map spans the product of `pools`, in frames and in bins; incomplete steps are cut off.

    - `widths`: the channels of each block.
    - `pools`: the side of the squares of the mean pooling after each block.
    - `embedding`: the width of the embedding; None for that of the last block.
    - `input_norm`: the number of bins of a BatchNorm over the bins of the input; None for no norm.
    - `dropout`: the rate after each block.
    - `embedding_dropout`: the rate in front of the linear map that gives the embedding.
    """

    input_norm: BatchNorm | None
    blocks: tuple[ConvBlock, ...]
    dropout: eqx.nn.Dropout
    embedding_dropout: eqx.nn.Dropout
    embed: Linear
    width: int = eqx.field(static=True)
    pools: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        widths: tuple[int, ...],
        pools: tuple[int, ...],
        *,
        embedding: int | None = None,
        input_norm: int | None = None,
        dropout: float = 0.2,
        embedding_dropout: float = 0.5,
        key: PRNGKeyArray,
    ):
        if not len(widths) == len(pools) > 0 or min(*widths, *pools) < 1:
            raise ValueError(f"CNN takes as many widths as pools, all at least 1, got {widths} and {pools}.")
        keys = split(key, len(widths) + 1)
        self.width, self.pools = widths[-1] if embedding is None else embedding, pools
        self.input_norm = None if input_norm is None else BatchNorm(input_norm)
        self.blocks = tuple(
            ConvBlock(inputs, outputs, key=block_key)
            for (inputs, outputs), block_key in zip(itertools.pairwise((1, *widths)), keys[1:], strict=True)
        )
        self.dropout, self.embedding_dropout = eqx.nn.Dropout(dropout), eqx.nn.Dropout(embedding_dropout)
        self.embed = Linear(widths[-1], self.width, scale=(2 / self.width) ** 0.5, key=keys[0])

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        if self.input_norm is not None:
            x, state = self.input_norm(x, state)
        y, maps = x[:, :, None], []
        keys = split_key(key, len(self.blocks))
        for block, pool, block_key in zip(self.blocks, self.pools, keys, strict=True):
            y, state = block(y, state)
            y = self.dropout(mean_pool(y, pool), key=block_key)
            maps.append(y)
        return tuple(maps), state

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        stride = math.prod(self.pools[: range(len(self.pools))[layer] + 1])
        return np.arange(time) * stride + (stride - 1) / 2


cnn10 = partial(CNN, (64, 128, 256, 512), (2, 2, 2, 2))
cnn14 = partial(CNN, (64, 128, 256, 512, 1024, 2048), (2, 2, 2, 2, 2, 1))
