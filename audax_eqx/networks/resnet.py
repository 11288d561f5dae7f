"""ResNet, "Deep Residual Learning for Image Recognition", He et al., 2016, arXiv:1512.03385.

    stem:        7x7 convolution, stride 2 -> BatchNorm -> ReLU -> 3x3 maximum, stride 2
    basic:       relu(shortcut(x) + norm(3x3(relu(norm(3x3(x))))))
    bottleneck:  relu(shortcut(x) + norm(1x1(relu(norm(3x3(relu(norm(1x1(x)))))))))
    end:         mean over time and freq

The 3x3 convolution of a bottleneck has the stride, as in torchvision and timm. ImageNet weights to start from:
https://huggingface.co/timm/resnet18.a1_in1k (Apache-2.0), by `zoo.load("timm/resnet18.a1_in1k")`.
"""

from collections.abc import Iterator
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import BatchNorm, Conv, Length, Linear, max_pool, pointwise, zero_behind
from ..layers.initial import split

Keys = Iterator[PRNGKeyArray]
Padding = Literal["symmetric", "same"]
Map = Float[Array, "time freq channels"]
Smaller = Float[Array, "newtime newfreq newchannels"]


class Shortcut(eqx.Module):
    """Gives the input the size of the branch: every `stride`-th position, a 1x1 convolution, then BatchNorm."""

    conv: Linear
    norm: BatchNorm
    stride: int = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, stride: int, keys: Keys):
        self.conv = pointwise(inputs, outputs, key=next(keys))
        self.norm = BatchNorm(outputs)
        self.stride = stride

    def __call__(self, x: Map, state: eqx.nn.State) -> tuple[Smaller, eqx.nn.State]:
        return self.norm(self.conv(x[:: self.stride, :: self.stride]), state)


class Basic(eqx.Module):
    """Two 3x3 convolutions. The initial weight of the last norm is 0, so that training starts from the identity.

    With a `length` and "symmetric" padding, rows behind `length` are zeros for the convolutions, as if the map ended
    there.
    """

    conv1: Conv
    norm1: BatchNorm
    conv2: Conv
    norm2: BatchNorm
    shortcut: Shortcut | None

    def __init__(self, inputs: int, width: int, stride: int, padding: Padding, keys: Keys):
        strides = (stride, stride)
        self.conv1 = Conv(inputs, width, (3, 3), stride=strides, padding=padding, bias=False, key=next(keys))
        self.norm1 = BatchNorm(width)
        self.conv2 = Conv(width, width, (3, 3), padding=padding, bias=False, key=next(keys))
        self.norm2 = BatchNorm(width, scale=0.0)
        self.shortcut = Shortcut(inputs, width, stride, keys) if stride > 1 or inputs != width else None

    def __call__(self, x: Map, state: eqx.nn.State, *, length: Length = None) -> tuple[Smaller, eqx.nn.State]:
        y, state = self.norm1(self.conv1(zero_behind(x, length)), state)
        y = zero_behind(jax.nn.relu(y), fewer(length, self.conv1.stride[0]))
        y, state = self.norm2(self.conv2(y), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class Bottleneck(eqx.Module):
    """1x1 to `width` channels, 3x3, 1x1 to four times as many. The initial weight of the last norm is 0. `length` is as
    in `Basic`."""

    conv1: Linear
    norm1: BatchNorm
    conv2: Conv
    norm2: BatchNorm
    conv3: Linear
    norm3: BatchNorm
    shortcut: Shortcut | None

    def __init__(self, inputs: int, width: int, stride: int, padding: Padding, keys: Keys):
        strides, outputs = (stride, stride), 4 * width
        self.conv1 = pointwise(inputs, width, key=next(keys))
        self.norm1 = BatchNorm(width)
        self.conv2 = Conv(width, width, (3, 3), stride=strides, padding=padding, bias=False, key=next(keys))
        self.norm2 = BatchNorm(width)
        self.conv3 = pointwise(width, outputs, key=next(keys))
        self.norm3 = BatchNorm(outputs, scale=0.0)
        self.shortcut = Shortcut(inputs, outputs, stride, keys) if stride > 1 or inputs != outputs else None

    def __call__(self, x: Map, state: eqx.nn.State, *, length: Length = None) -> tuple[Smaller, eqx.nn.State]:
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(zero_behind(jax.nn.relu(y), length)), state)
        y, state = self.norm3(self.conv3(jax.nn.relu(y)), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


def fewer(size: Length, stride: int) -> Length:
    """The number of rows that a stride makes of `size` rows; None for None."""
    return None if size is None else -(-size // stride)


def residual_stages(
    depths: tuple[int, ...], widths: tuple[int, ...], bottleneck: bool, padding: Padding, keys: Keys
) -> tuple[tuple[tuple[Basic | Bottleneck, ...], ...], int]:
    """The stages of a ResNet whose stem has the channels of the first stage, and the channels of the last map."""
    make, factor = (Bottleneck, 4) if bottleneck else (Basic, 1)
    inputs = (widths[0], *(factor * width for width in widths))
    stages = tuple(
        tuple(
            make(channels if block == 0 else factor * width, width, 2 if block == 0 and stage else 1, padding, keys)
            for block in range(depth)
        )
        for stage, (channels, width, depth) in enumerate(zip(inputs, widths, depths, strict=False))
    )
    return stages, inputs[-1]


class ResNet(AbstractNetwork):
    """ResNet over a one-channel map of `frames bins`; a step of the feature map is 32 frames by 32 bins.

    - `depths`: the number of blocks of each stage; every stage but the first halves the map.
    - `widths`: the channels of each stage's 3x3 convolutions.
    - `bottleneck`: whether blocks are bottlenecks, which have four times as many outputs, or basic.
    - `padding`: "symmetric" (torch), or "same": Flax's padding of everything except the stem's convolution.
    """

    stem: Conv
    norm: BatchNorm
    stages: tuple[tuple[Basic | Bottleneck, ...], ...]
    width: int = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512),
        *,
        bottleneck: bool = False,
        padding: Padding = "symmetric",
        key: PRNGKeyArray,
    ):
        if not len(depths) == len(widths) > 0 or min(*depths, *widths) < 1:
            raise ValueError(f"ResNet takes as many depths as widths, all at least 1, got {depths} and {widths}.")
        keys = iter(split(key, 4 * sum(depths) + 1))
        self.stem = Conv(1, widths[0], (7, 7), stride=(2, 2), bias=False, key=next(keys))
        self.norm = BatchNorm(widths[0])
        self.stages, self.width = residual_stages(depths, widths, bottleneck, padding, keys)
        self.padding = padding

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        y, state = self.norm(self.stem(x[:, :, None]), state)
        y = max_pool(jax.nn.relu(y), 3, 2, self.padding)
        maps = []
        for stage in self.stages:
            for block in stage:
                y, state = block(y, state)
            maps.append(y)
        return tuple(maps), state

    def pool_map(self, y: Float[Array, "time freq {self.width}"]) -> Float[Array, "{self.width}"]:
        """The embedding of a feature map."""
        return jnp.mean(y, axis=(0, 1))

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        """With "same" padding the centres depend on the length; these are exact to within half a step."""
        stride = 4 * 2 ** range(len(self.stages))[layer]
        return np.arange(time) * stride + (0.0 if self.padding == "symmetric" else (stride - 1) / 2)


resnet18 = partial(ResNet, (2, 2, 2, 2))
resnet34 = partial(ResNet, (3, 4, 6, 3))
resnet50 = partial(ResNet, (3, 4, 6, 3), bottleneck=True)
resnet101 = partial(ResNet, (3, 4, 23, 3), bottleneck=True)
resnet152 = partial(ResNet, (3, 8, 36, 3), bottleneck=True)
resnet200 = partial(ResNet, (3, 24, 36, 3), bottleneck=True)
