"""EfficientNet, Tan and Le, 2019, arXiv:1905.11946.

    stem:    3x3 convolution, stride 2 -> BatchNorm -> SiLU
    MBConv:  x + drop_path(norm(project(excite(silu(norm(depthwise(silu(norm(expand(x)))))))))),
             without `x +` where the size changes, without `expand` in the first stage
    end:     1x1 convolution -> BatchNorm -> SiLU -> mean over time and freq

    | stage       | stem |  1 |  2 |  3 |  4 |   5 |   6 |   7 |  end |
    | channels    |   32 | 16 | 24 | 40 | 80 | 112 | 192 | 320 | 1280 |
    | blocks      |      |  1 |  2 |  2 |  3 |   3 |   4 |   1 |      |
    | kernel      |    3 |  3 |  3 |  5 |  3 |   5 |   5 |   3 |    1 |
    | stride      |    2 |  1 |  2 |  2 |  2 |   1 |   2 |   1 |    1 |
    | expansion   |      |  1 |  6 |  6 |  6 |   6 |   6 |   6 |      |

ImageNet weights to start from: https://huggingface.co/timm/efficientnet_b0.ra_in1k (Apache-2.0), by
`zoo.load("timm/efficientnet_b0.ra_in1k")`.

`perch_v2` is the B3 of "Perch 2.0", van Merrienboer et al., 2025, arXiv:2508.04665, a model of animal sounds. It pads
as TensorFlow does, except that the stem does not pad, and the first block of a stage never adds its input.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import (
    Activation,
    BatchNorm,
    Conv,
    Depthwise,
    DropPath,
    Linear,
    SqueezeExcite,
    activate,
    pointwise,
    split_key,
)
from ..layers.initial import split

Keys = Iterator[PRNGKeyArray]
Padding = Literal["symmetric", "same"]
DEPTHS, WIDTHS = (1, 2, 2, 3, 3, 4, 1), (32, 16, 24, 40, 80, 112, 192, 320)
KERNELS, STRIDES, EXPANSIONS = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6)


class MBConv(eqx.Module):
    """Inverted bottleneck: 1x1 to `expansion` times the channels, depthwise, squeeze-and-excitation, 1x1 back."""

    expand: Linear | None
    expand_norm: BatchNorm | None
    depthwise: Depthwise
    depthwise_norm: BatchNorm
    excite: SqueezeExcite
    project: Linear
    project_norm: BatchNorm
    drop_path: DropPath
    residual: bool = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        drop_path: float,
        padding: Padding,
        excite_bias: bool,
        activation: Activation,
        residual: bool,
        norm: "partial[BatchNorm]",
        keys: Keys,
    ):
        inner = expansion * inputs
        self.expand = pointwise(inputs, inner, key=next(keys)) if expansion > 1 else None
        self.expand_norm = norm(inner) if expansion > 1 else None
        self.depthwise = Depthwise(
            inner,
            (kernel, kernel),
            stride=(stride, stride),
            padding=padding,
            bias=False,
            scale=math.sqrt(2) / kernel,
            key=next(keys),
        )
        self.depthwise_norm = norm(inner)
        squeezed = max(1, inputs // 4)
        self.excite = SqueezeExcite(inner, squeezed, bias=excite_bias, activation=activation, key=next(keys))
        self.project = pointwise(inner, outputs, key=next(keys))
        self.project_norm = norm(outputs)
        self.drop_path = DropPath(drop_path)
        self.residual = residual and stride == 1 and inputs == outputs
        self.activation = activation

    def __call__(
        self, x: Float[Array, "time freq channels"], state: eqx.nn.State, *, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "newtime newfreq newchannels"], eqx.nn.State]:
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y, state = self.expand_norm(self.expand(y), state)
            y = activate(y, self.activation)
        y, state = self.depthwise_norm(self.depthwise(y), state)
        y, state = self.project_norm(self.project(self.excite(activate(y, self.activation))), state)
        return (x + self.drop_path(y, key=key) if self.residual else y), state


class EfficientNet(AbstractNetwork):
    """EfficientNet over a one-channel map of `frames bins`; a step of the feature map is 32 frames by 32 bins.

    - `depths`: the number of blocks of each of the seven stages.
    - `widths`: the channels of the stem and of the seven stages; the end has four times the channels of the last stage.
    - `drop_path`: the rate of block i of n is `drop_path` times i / n.
    - `padding`: "symmetric" (torch), or "same" (TensorFlow, Flax).
    - `stem_padding`: the padding of the stem, "valid" for no padding; None for `padding`.
    - `excite_bias`: whether the squeeze-and-excitations have biases.
    - `activation`: "silu" or "relu", within blocks and their squeeze-and-excitations; stem and end use SiLU.
    - `first_residual`: whether the first block of a stage adds its input too if the sizes are equal.
    - `eps`, `momentum`: those of every BatchNorm.
    """

    stem: Conv
    stem_norm: BatchNorm
    stages: tuple[tuple[MBConv, ...], ...]
    end: Linear
    end_norm: BatchNorm
    width: int = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        depths: tuple[int, ...] = DEPTHS,
        widths: tuple[int, ...] = WIDTHS,
        *,
        drop_path: float = 0.0,
        padding: Padding = "symmetric",
        stem_padding: Literal["symmetric", "same", "valid"] | None = None,
        excite_bias: bool = True,
        activation: Literal["silu", "relu"] = "silu",
        first_residual: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
        key: PRNGKeyArray,
    ):
        if len(depths) != len(DEPTHS) or len(widths) != len(WIDTHS) or min(*depths, *widths) < 1:
            raise ValueError(f"EfficientNet takes 7 depths and 8 widths, all at least 1, got {depths} and {widths}.")
        norm, blocks = partial(BatchNorm, eps=eps, momentum=momentum), sum(depths)
        keys, rates = iter(split(key, 5 * blocks + 2)), iter(drop_path * np.arange(blocks) / blocks)

        def make_stage(index: int) -> tuple[MBConv, ...]:
            inputs, outputs = widths[index : index + 2]
            return tuple(
                MBConv(
                    inputs if block == 0 else outputs,
                    outputs,
                    KERNELS[index],
                    STRIDES[index] if block == 0 else 1,
                    EXPANSIONS[index],
                    float(next(rates)),
                    padding,
                    excite_bias,
                    activation,
                    first_residual or block > 0,
                    norm,
                    keys,
                )
                for block in range(depths[index])
            )

        stem_padding = padding if stem_padding is None else stem_padding
        self.stem = Conv(1, widths[0], (3, 3), stride=(2, 2), padding=stem_padding, bias=False, key=next(keys))
        self.stem_norm = norm(widths[0])
        self.stages = tuple(map(make_stage, range(len(depths))))
        self.end = pointwise(widths[-1], 4 * widths[-1], key=next(keys))
        self.end_norm = norm(4 * widths[-1])
        self.width, self.padding = 4 * widths[-1], padding

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        y, state = self.stem_norm(self.stem(x[:, :, None]), state)
        y = jax.nn.silu(y)
        keys, maps = iter(split_key(key, sum(map(len, self.stages)))), []
        for stage in self.stages:
            for block in stage:
                y, state = block(y, state, key=next(keys))
            maps.append(y)
        y, state = self.end_norm(self.end(y), state)
        return (*maps, jax.nn.silu(y)), state

    def pool_map(self, y: Float[Array, "time freq {self.width}"]) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map."""
        return jnp.mean(y, axis=(0, 1))

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        """With "same" padding the centres depend on the length; these are exact to within half a step."""
        steps = math.prod((*STRIDES, 1)[: range(len(self.stages) + 1)[layer] + 1])  # counted in steps of the stem
        centre = {"symmetric": 0.0, "same": 0.5, "valid": 1.0}[self.stem.padding]
        return 2 * (np.arange(time) * steps + (0.0 if self.padding == "symmetric" else (steps - 1) / 2)) + centre


def scaled(width: float, depth: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`depths` and `widths` of B0 times two factors. Depths are rounded up, widths to the nearest multiple of 8 that is
    not smaller by more than a tenth."""
    depths = tuple(math.ceil(depth * count) for count in DEPTHS)
    nearest = (max(8, int(width * channels + 4) // 8 * 8) for channels in WIDTHS)
    return depths, tuple(
        multiple + 8 if multiple < 0.9 * width * channels else multiple
        for multiple, channels in zip(nearest, WIDTHS, strict=True)
    )


efficientnet_b0 = partial(EfficientNet, *scaled(width=1.0, depth=1.0))
efficientnet_b1 = partial(EfficientNet, *scaled(width=1.0, depth=1.1))
efficientnet_b2 = partial(EfficientNet, *scaled(width=1.1, depth=1.2))
efficientnet_b3 = partial(EfficientNet, *scaled(width=1.2, depth=1.4))
efficientnet_b4 = partial(EfficientNet, *scaled(width=1.4, depth=1.8))
efficientnet_b5 = partial(EfficientNet, *scaled(width=1.6, depth=2.2), eps=1e-3, momentum=0.01)
efficientnet_b6 = partial(EfficientNet, *scaled(width=1.8, depth=2.6), eps=1e-3, momentum=0.01)
efficientnet_b7 = partial(EfficientNet, *scaled(width=2.0, depth=3.1), eps=1e-3, momentum=0.01)
perch_v2 = partial(
    EfficientNet,
    *scaled(width=1.2, depth=1.4),
    padding="same",
    stem_padding="valid",
    first_residual=False,
    momentum=0.01,
)
