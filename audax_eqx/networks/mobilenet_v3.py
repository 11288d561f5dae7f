"""MobileNetV3-Large, Howard et al., 2019, arXiv:1905.02244; for audio, "Efficient large-scale audio tagging via
Transformer-to-CNN knowledge distillation", Schmid et al., 2023, arXiv:2211.04772.

    stem:   3x3 convolution, stride 2 -> BatchNorm -> hardswish
    block:  x + norm(project(excite(act(norm(depthwise(act(norm(expand(x)))))))),
            without `x +` where the size changes, without `expand` where it would add no channels
    end:    1x1 convolution -> BatchNorm -> hardswish -> mean over time and freq

    | stage            | stem |  1 |      2 |         3 |              4 |       5 |       6 | end |
    | channels         |   16 | 16 |     24 |        40 |             80 |     112 |     160 | 960 |
    | expanded to      |      | 16 | 64, 72 | 72, 2x120 | 240, 200, 2x184 | 480, 672 | 672, 2x960 |  |
    | kernel           |    3 |  3 |      3 |         5 |              3 |       3 |       5 |   1 |
    | stride           |    2 |  1 |      2 |         2 |              2 |       1 |       2 |   1 |
    | excitation       |      |    |        |       yes |                |     yes |     yes |     |
    | activation (act) |      |  ReLU |  ReLU |    ReLU | hardswish | hardswish | hardswish |     |

This is the variant of Schmid et al.: the last function of the excitation is a sigmoid, and a classifier has a hidden
layer behind the mean. `mn10` has these numbers of channels, `mn04` has 0.4 times as many, and so on.

AudioSet weights: the releases of https://github.com/fschmid56/EfficientAT (MIT), by `zoo.convert`.
"""

import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import BatchNorm, Conv, Linear, pointwise
from ..layers.initial import split
from .mobilenet import InvertedResidual

WIDTHS, DEPTHS = (16, 16, 24, 40, 80, 112, 160), (1, 2, 3, 4, 2, 3)
INNER = (16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960)
KERNELS, STRIDES = (3, 3, 5, 3, 3, 5), (1, 2, 2, 2, 1, 2)
EXCITES = (False, False, True, False, True, True)
STAGES = tuple(stage for stage, depth in enumerate(DEPTHS) for _ in range(depth))  # the stage of each block
NORM = partial(BatchNorm, eps=1e-3, momentum=0.01)


class AbstractMobileNetV3(AbstractNetwork):
    """A network with the stem, the stages and the end of this table, and with blocks of any kind."""

    stem: eqx.AbstractVar[Conv]
    stem_norm: eqx.AbstractVar[BatchNorm]
    blocks: eqx.AbstractVar[tuple[Any, ...]]
    end: eqx.AbstractVar[Linear]
    end_norm: eqx.AbstractVar[BatchNorm]

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        """The maps behind each stage and behind the end."""
        y, state = self.stem_norm(self.stem(x[:, :, None]), state)
        y, maps = jax.nn.hard_swish(y), []
        for stage, block, following in zip(STAGES, self.blocks, (*STAGES[1:], None), strict=True):
            y, state = block(y, state)
            maps += [y] if stage != following else []
        y, state = self.end_norm(self.end(y), state)
        return (*maps, jax.nn.hard_swish(y)), state

    def pool_map(self, y: Float[Array, "time freq {self.width}"]) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map."""
        return jnp.mean(y, axis=(0, 1))

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        """The centres of the steps of a layer's map; kernels are centred on multiples of the stride."""
        return np.arange(time) * float(2 * math.prod((*STRIDES, 1)[: range(len(DEPTHS) + 1)[layer] + 1]))


class MobileNetV3(AbstractMobileNetV3):
    """MobileNetV3-Large over a one-channel map of `frames bins`; a step of the feature map is 32 frames by 32 bins.

    - `widths`: the channels of the stem and of the six stages; the end has six times the channels of the last stage.
    - `inner`: the channels of each of the 15 blocks between its first and its last convolution.
    - `squeeze`: the divisor of the channels in a squeeze-and-excitation; the result is rounded to a multiple of 8.
    """

    stem: Conv
    stem_norm: BatchNorm
    blocks: tuple[InvertedResidual, ...]
    end: Linear
    end_norm: BatchNorm
    width: int = eqx.field(static=True)

    def __init__(
        self,
        widths: tuple[int, ...] = WIDTHS,
        inner: tuple[int, ...] = INNER,
        *,
        squeeze: int = 4,
        key: PRNGKeyArray,
    ):
        check_table("MobileNetV3", widths, inner)
        if squeeze < 1:
            raise ValueError(f"MobileNetV3 divides channels by `squeeze`, which must be at least 1, got {squeeze}.")
        keys, self.width = iter(split(key, 5 * len(STAGES) + 2)), 6 * widths[-1]
        self.stem = Conv(1, widths[0], (3, 3), stride=(2, 2), bias=False, key=next(keys))
        self.stem_norm = NORM(widths[0])
        self.blocks = tuple(
            InvertedResidual(
                inputs,
                inner[block],
                outputs,
                keys,
                kernel=KERNELS[STAGES[block]],
                stride=stride,
                squeezed=divisible(inner[block] // squeeze) if EXCITES[STAGES[block]] else None,
                activation="relu" if STAGES[block] < 3 else "hardswish",
                norm=NORM,
            )
            for block, (inputs, outputs, stride) in enumerate(table(widths))
        )
        self.end = pointwise(widths[-1], self.width, key=next(keys))
        self.end_norm = NORM(self.width)


def table(widths: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """The input channels, the output channels and the stride of each block."""
    first = [block == 0 or STAGES[block - 1] != stage for block, stage in enumerate(STAGES)]
    return [
        (widths[stage if is_first else stage + 1], widths[stage + 1], STRIDES[stage] if is_first else 1)
        for stage, is_first in zip(STAGES, first, strict=True)
    ]


def check_table(name: str, widths: tuple[int, ...], *blocks: tuple[int, ...]) -> None:
    """Raises ValueError unless there is a number for the stem and for each of 6 stages, and numbers for 15 blocks."""
    counts = len(widths), {len(numbers) for numbers in blocks}
    if counts != (len(WIDTHS), {len(STAGES)}) or min(map(min, (widths, *blocks))) < 1:
        numbers = " and ".join(map(str, (widths, *blocks)))
        raise ValueError(f"{name} takes 7 widths and a number for each of 15 blocks, all at least 1, got {numbers}.")


def divisible(channels: float) -> int:
    """The nearest multiple of 8, at least 8, that is not smaller by more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def scaled(factor: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`widths` and `inner` of the paper, times a factor and rounded to multiples of 8."""
    widths, inner = (tuple(divisible(factor * number) for number in numbers) for numbers in (WIDTHS, INNER))
    return widths, inner


mn04 = partial(MobileNetV3, *scaled(0.4))
mn05 = partial(MobileNetV3, *scaled(0.5))
mn10 = partial(MobileNetV3, *scaled(1.0))
mn20 = partial(MobileNetV3, *scaled(2.0))
mn30 = partial(MobileNetV3, *scaled(3.0))
mn40 = partial(MobileNetV3, *scaled(4.0))
