"""The pair of convolutions of VGG (Simonyan and Zisserman, 2015, arXiv:1409.1556), with normalisation."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .conv import Conv
from .initial import split
from .norm import BatchNorm


class ConvBlock(eqx.Module):
    """Two 3x3 convolutions, each followed by BatchNorm and ReLU."""

    conv1: Conv
    norm1: BatchNorm
    conv2: Conv
    norm2: BatchNorm

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        keys = split(key, 2)
        self.conv1 = Conv(inputs, outputs, (3, 3), bias=False, key=keys[0])
        self.norm1 = BatchNorm(outputs)
        self.conv2 = Conv(outputs, outputs, (3, 3), bias=False, key=keys[1])
        self.norm2 = BatchNorm(outputs)

    def __call__(
        self, x: Float[Array, "time freq inputs"], state: eqx.nn.State
    ) -> tuple[Float[Array, "time freq outputs"], eqx.nn.State]:
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(jax.nn.relu(y)), state)
        return jax.nn.relu(y), state
