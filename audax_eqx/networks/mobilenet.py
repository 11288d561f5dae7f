"""MobileNetV2, Sandler et al., 2018, arXiv:1801.04381; for audio, "PANNs", Kong et al., 2020, arXiv:1912.10211.

    stem:   3x3 convolution -> 2x2 mean -> BatchNorm -> ReLU6
    block:  x + norm(project(relu6(norm(mean(depthwise(relu6(norm(expand(x)))))))),
            without `x +` where the size changes, without `expand` in the first stage
    end:    1x1 convolution -> BatchNorm -> ReLU6
            -> mean over freq -> mean + maximum over time -> linear -> ReLU

    | stage       | stem |  1 |  2 |  3 |  4 |  5 |   6 |   7 |  end | embedding |
    | channels    |   32 | 16 | 24 | 32 | 64 | 96 | 160 | 320 | 1280 |      1024 |
    | blocks      |      |  1 |  2 |  3 |  4 |  3 |   3 |   1 |      |           |
    | mean over   |    2 |  1 |  2 |  2 |  2 |  2 |   1 |   1 |      |           |
    | expansion   |      |  1 |  6 |  6 |  6 |  6 |   6 |   6 |      |           |

This is the variant of PANNs: a mean replaces the stride of Sandler et al.'s convolutions, and the last mean lies in
stage 5 instead of 6.

AudioSet weights: https://huggingface.co/nicofarr/panns_MobileNetV2 (Apache-2.0), a mirror of
https://zenodo.org/records/3987831 (CC-BY-4.0); in the zoo as `panns_mobilenetv2_audioset`.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import (
    Activation,
    BatchNorm,
    Conv,
    Depthwise,
    Linear,
    SqueezeExcite,
    activate,
    mean_max,
    mean_pool,
    pointwise,
)
from ..layers.initial import split

Keys = Iterator[PRNGKeyArray]
POOLS, EXPANSIONS = (1, 2, 2, 2, 2, 1, 1), (1, 6, 6, 6, 6, 6, 6)


class InvertedResidual(eqx.Module):
    """1x1 to `inner` channels unless the input has as many, depthwise, mean over squares of `pool`, 1x1 to `outputs`.

    With `squeezed` channels a squeeze-and-excitation precedes the last 1x1 convolution, as in MobileNetV3.
    """

    expand: Linear | None
    expand_norm: BatchNorm | None
    depthwise: Depthwise
    depthwise_norm: BatchNorm
    excite: SqueezeExcite | None
    project: Linear
    project_norm: BatchNorm
    pool: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    residual: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        keys: Keys,
        *,
        kernel: int = 3,
        stride: int = 1,
        pool: int = 1,
        squeezed: int | None = None,
        activation: Activation = "relu6",
        norm: Callable[[int], BatchNorm] = BatchNorm,
    ):
        self.expand = pointwise(inputs, inner, key=next(keys)) if inner != inputs else None
        self.expand_norm = norm(inner) if inner != inputs else None
        self.depthwise = Depthwise(
            inner,
            (kernel, kernel),
            stride=(stride, stride),
            bias=False,
            scale=math.sqrt(2) / kernel,
            key=next(keys),
        )
        self.depthwise_norm = norm(inner)
        self.excite = None
        if squeezed is not None:
            self.excite = SqueezeExcite(inner, squeezed, activation="relu", key=next(keys))
        self.project = pointwise(inner, outputs, key=next(keys))
        self.project_norm = norm(outputs)
        self.pool, self.activation = pool, activation
        self.residual = stride == pool == 1 and inputs == outputs

    def __call__(
        self, x: Float[Array, "time freq channels"], state: eqx.nn.State
    ) -> tuple[Float[Array, "newtime newfreq newchannels"], eqx.nn.State]:
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y, state = self.expand_norm(self.expand(y), state)
            y = activate(y, self.activation)
        y, state = self.depthwise_norm(mean_pool(self.depthwise(y), self.pool), state)
        y = activate(y, self.activation)
        if self.excite is not None:
            y = self.excite(y)
        y, state = self.project_norm(self.project(y), state)
        return (x + y if self.residual else y), state


class MobileNetV2(AbstractNetwork):
    """MobileNetV2 over a one-channel map of `frames bins`; a step of the feature map is 32 frames by 32 bins.

    Incomplete steps at the end are cut off.

    - `depths`: the number of blocks of each of the seven stages.
    - `widths`: the channels of the stem and of the seven stages; the end has four times the channels of the last stage.
    - `embedding`: the width of the embedding.
    - `input_norm`: the number of bins of a BatchNorm over the bins of the input; None for no norm.
    """

    input_norm: BatchNorm | None
    stem: Conv
    stem_norm: BatchNorm
    blocks: tuple[InvertedResidual, ...]
    end: Linear
    end_norm: BatchNorm
    embed: Linear
    width: int = eqx.field(static=True)
    depths: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        *,
        embedding: int = 1024,
        input_norm: int | None = None,
        key: PRNGKeyArray,
    ):
        if (len(depths), len(widths)) != (7, 8) or min(*depths, *widths) < 1:
            raise ValueError(f"MobileNetV2 takes 7 depths and 8 widths, all at least 1, got {depths} and {widths}.")
        keys, end = iter(split(key, 3 * sum(depths) + 3)), 4 * widths[-1]
        self.input_norm = None if input_norm is None else BatchNorm(input_norm)
        self.stem = Conv(1, widths[0], (3, 3), bias=False, key=next(keys))
        self.stem_norm = BatchNorm(widths[0])
        self.blocks = tuple(
            InvertedResidual(
                inputs, expansion * inputs, widths[stage + 1], keys, pool=POOLS[stage] if block == 0 else 1
            )
            for stage, (depth, expansion) in enumerate(zip(depths, EXPANSIONS, strict=True))
            for block in range(depth)
            for inputs in (widths[stage + (block > 0)],)
        )
        self.end = pointwise(widths[-1], end, key=next(keys))
        self.end_norm = BatchNorm(end)
        self.embed = Linear(end, embedding, scale=(2 / embedding) ** 0.5, key=next(keys))
        self.width, self.depths = embedding, depths

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        if self.input_norm is not None:
            x, state = self.input_norm(x, state)
        y, state = self.stem_norm(mean_pool(self.stem(x[:, :, None]), 2), state)
        y = jax.nn.relu6(y)
        blocks, maps = iter(self.blocks), []
        for depth in self.depths:
            for block in itertools.islice(blocks, depth):
                y, state = block(y, state)
            maps.append(y)
        y, state = self.end_norm(self.end(y), state)
        return (*maps, jax.nn.relu6(y)), state

    def pool_map(self, y: Float[Array, "time freq channels"]) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map."""
        return jax.nn.relu(self.embed(mean_max(y)))

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        stride = 2 * math.prod((*POOLS, 1)[: range(len(self.depths) + 1)[layer] + 1])
        return np.arange(time) * stride + (stride - 1) / 2


mobilenet_v2 = partial(MobileNetV2, (1, 2, 3, 4, 3, 3, 1), (32, 16, 24, 32, 64, 96, 160, 320))
