"""DyMN, "Dynamic convolutional neural networks as efficient pre-trained audio models", Schmid et al., 2023,
arXiv:2310.15648: MobileNetV3's table of blocks, whose kernels and activations are functions of their input.

    context:  s = hardswish(norm(linear([mean of x over time, mean of x over freq])))
              h = mean of s;    a_freq, a_time = sigmoid(linear(s of each freq)), sigmoid(linear(s of each time))
    block:    x + norm(project(a_freq a_time dyrelu(norm(depthwise(act(norm(expand(x))))))))
    kernels:  of expand, depthwise and project, sum_k softmax(linear(h) / temperature)_k weight_k
    dyrelu:   max_m (slope_m(h) x + intercept_m(h)), for each channel

act, stem and end are those of MobileNetV3, and `x +` and `expand` are left out in the same blocks as there.

AudioSet weights: the releases of https://github.com/fschmid56/EfficientAT (MIT), by `zoo.convert`.
"""

import functools
import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import Activation, BatchNorm, Conv, Linear, activate, pointwise
from ..layers.depthwise import depthwise
from ..layers.initial import full, normal, split
from .mobilenet import InvertedResidual, Keys
from .mobilenet_v3 import KERNELS, NORM, STAGES, AbstractMobileNetV3, check_table, divisible, scaled, table


class DynamicKernel(eqx.Module):
    """A kernel of this shape: the weighted mean of `count` learned kernels. A context determines the weights.

    The initial kernels are normal with standard deviation `scale`.
    """

    weight: Float[Array, "count ..."]
    choose: Linear
    temperature: float = eqx.field(static=True)

    def __init__(
        self, shape: tuple[int, ...], context: int, count: int, temperature: float, scale: float, *, key: PRNGKeyArray
    ):
        weight_key, choose_key = split(key, 2)
        self.weight = normal(weight_key, (count, *shape), scale)
        self.choose = Linear(context, count, key=choose_key)
        self.temperature = temperature

    def __call__(self, context: Float[Array, " context"]) -> Float[Array, "..."]:
        share = jax.nn.softmax(self.choose(context).astype(jnp.float32) / self.temperature)
        return jnp.tensordot(share.astype(self.weight.dtype), self.weight, axes=1)


class DynamicReLU(eqx.Module):
    """The maximum of `pieces` linear functions for each channel. A context determines the functions (Chen et al., 2020,
    arXiv:2003.10027).

    Slopes and intercepts are start + range (2 sigmoid(...) - 1). The ranges are 1 and 1/2, and the starts are those of
    the ReLU. They are not trained, and lie in the State because checkpoints contain them.
    """

    coefficients: Linear
    ranges: eqx.nn.StateIndex
    starts: eqx.nn.StateIndex
    pieces: int = eqx.field(static=True)

    def __init__(self, channels: int, context: int, pieces: int, *, key: PRNGKeyArray):
        self.coefficients, self.pieces = Linear(context, 2 * pieces * channels, key=key), pieces
        self.ranges = eqx.nn.StateIndex(jnp.concatenate([full(pieces, 1.0), full(pieces, 0.5)]))
        self.starts = eqx.nn.StateIndex(full(2 * pieces, 0.0).at[0].set(1.0))

    def __call__(
        self, x: Float[Array, "time freq channels"], context: Float[Array, " context"], state: eqx.nn.State
    ) -> Float[Array, "time freq channels"]:
        theta = 2 * jax.nn.sigmoid(self.coefficients(context).astype(jnp.float32)) - 1
        theta = theta.reshape(x.shape[-1], 2 * self.pieces)
        ranges, starts = (jnp.broadcast_to(state.get(index), theta.shape) for index in (self.ranges, self.starts))
        slopes, intercepts = jnp.split((starts + ranges * theta).astype(x.dtype), 2, axis=1)
        lines = (
            x * jnp.broadcast_to(slopes[:, piece], x.shape) + jnp.broadcast_to(intercepts[:, piece], x.shape)
            for piece in range(self.pieces)
        )
        return functools.reduce(jnp.maximum, lines)


class Context(eqx.Module):
    """A summary of a block's whole input: a vector for kernels and activations, and a factor for each frequency and
    each time of the block's output (coordinate attention, Hou et al., 2021, arXiv:2103.02907)."""

    joint: Linear
    joint_norm: BatchNorm
    freq: Linear
    time: Linear
    stride: int = eqx.field(static=True)

    def __init__(self, inputs: int, context: int, channels: int, stride: int, keys: Keys):
        self.joint = pointwise(inputs, context, key=next(keys))
        self.joint_norm = NORM(context)
        self.freq, self.time = (Linear(context, channels, key=next(keys)) for _ in range(2))
        self.stride = stride

    def __call__(
        self, x: Float[Array, "time freq inputs"], state: eqx.nn.State
    ) -> tuple[Float[Array, " context"], Float[Array, "newtime newfreq channels"], eqx.nn.State]:
        over_time, over_freq = (jnp.mean(x, axis=axis, dtype=jnp.float32).astype(x.dtype) for axis in (0, 1))
        y, state = self.joint_norm(self.joint(jnp.concatenate([over_time, over_freq])), state)
        y = jax.nn.hard_swish(y)
        freq, time = y[: x.shape[1]], y[x.shape[1] :]
        freq = jax.nn.sigmoid(self.freq(_mean_of_three(freq, self.stride)))
        time = jax.nn.sigmoid(self.time(_mean_of_three(time, self.stride)))
        shape = (len(time), len(freq), time.shape[-1])
        factors = jnp.broadcast_to(time[:, None], shape) * jnp.broadcast_to(freq[None], shape)
        return jnp.mean(y, axis=0, dtype=jnp.float32).astype(x.dtype), factors, state


def _mean_of_three(x: Float[Array, "steps channels"], stride: int) -> Float[Array, "newsteps channels"]:
    """The mean of each `stride`-th step and its two neighbours, with zeros beyond the ends; `x` for a stride of 1."""
    if stride == 1:
        return x
    around = jnp.pad(x, ((1, 1), (0, 0)))
    return (around[:-2:stride] + around[1:-1:stride] + around[2::stride]) / 3


class DynamicResidual(eqx.Module):
    """The block of MobileNetV3 with dynamic kernels and activations; the context has `context` channels."""

    context: Context
    expand: DynamicKernel | None
    expand_norm: BatchNorm | None
    depthwise: DynamicKernel
    depthwise_norm: BatchNorm
    relu: DynamicReLU
    project: DynamicKernel
    project_norm: BatchNorm
    stride: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    residual: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        context: int,
        keys: Keys,
        *,
        kernel: int,
        stride: int,
        activation: Activation,
        count: int,
        temperature: float,
        pieces: int,
    ):
        def linear(inputs: int, outputs: int) -> DynamicKernel:
            scale = math.sqrt(2 / outputs)
            return DynamicKernel((outputs, inputs), context, count, temperature, scale, key=next(keys))

        self.context = Context(inputs, context, inner, stride, keys)
        self.expand = linear(inputs, inner) if inner != inputs else None
        self.expand_norm = NORM(inner) if inner != inputs else None
        shape = (kernel, kernel, 1, inner)
        self.depthwise = DynamicKernel(shape, context, count, temperature, math.sqrt(2) / kernel, key=next(keys))
        self.depthwise_norm = NORM(inner)
        self.relu = DynamicReLU(inner, context, pieces, key=next(keys))
        self.project = linear(inner, outputs)
        self.project_norm = NORM(outputs)
        self.stride, self.activation = stride, activation
        self.residual = stride == 1 and inputs == outputs

    def __call__(
        self, x: Float[Array, "time freq channels"], state: eqx.nn.State
    ) -> tuple[Float[Array, "newtime newfreq newchannels"], eqx.nn.State]:
        context, factors, state = self.context(x, state)
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y, state = self.expand_norm(y @ self.expand(context).T, state)
            y = activate(y, self.activation)
        y = depthwise(y, self.depthwise(context), (self.stride, self.stride))
        y, state = self.depthwise_norm(y, state)
        y = self.relu(y, context, state) * factors
        y, state = self.project_norm(y @ self.project(context).T, state)
        return (x + y if self.residual else y), state


class DyMN(AbstractMobileNetV3):
    """DyMN over a one-channel map of `frames bins`; a step of the feature map is 32 frames by 32 bins.

    - `widths`: the channels of the stem and of the six stages; the end has six times the channels of the last stage.
    - `inner`: the channels of each of the 15 blocks between its first and its last convolution.
    - `contexts`: the channels of the context of each block; 0 for a block of MobileNetV3 without excitation.
    - `kernels`: the number of kernels whose mean is a dynamic kernel.
    - `temperature`: the temperature of the softmax of their weights. Training from scratch begins at 30 and lowers it.
    - `pieces`: the number of linear functions whose maximum is a dynamic ReLU.
    """

    stem: Conv
    stem_norm: BatchNorm
    blocks: tuple[DynamicResidual | InvertedResidual, ...]
    end: Linear
    end_norm: BatchNorm
    width: int = eqx.field(static=True)

    def __init__(
        self,
        widths: tuple[int, ...],
        inner: tuple[int, ...],
        contexts: tuple[int, ...],
        *,
        kernels: int = 4,
        temperature: float = 1.0,
        pieces: int = 2,
        key: PRNGKeyArray,
    ):
        check_table("DyMN", widths, inner, tuple(context or 1 for context in contexts))
        if min(kernels, pieces) < 1 or not temperature > 0:
            raise ValueError(
                "DyMN takes kernels and pieces of at least 1 and a temperature > 0, got "
                f"kernels={kernels}, pieces={pieces} and temperature={temperature}."
            )
        keys, self.width = iter(split(key, 7 * len(STAGES) + 2)), 6 * widths[-1]

        def make_block(index: int, inputs: int, outputs: int, stride: int) -> DynamicResidual | InvertedResidual:
            stage, sizes = STAGES[index], (inputs, inner[index], outputs)
            kernel, activation = KERNELS[stage], "relu" if stage < 3 else "hardswish"
            if contexts[index] == 0:
                return InvertedResidual(*sizes, keys, kernel=kernel, stride=stride, activation=activation, norm=NORM)
            return DynamicResidual(
                *sizes,
                contexts[index],
                keys,
                kernel=kernel,
                stride=stride,
                activation=activation,
                count=kernels,
                temperature=temperature,
                pieces=pieces,
            )

        self.stem = Conv(1, widths[0], (3, 3), stride=(2, 2), bias=False, key=next(keys))
        self.stem_norm = NORM(widths[0])
        self.blocks = tuple(make_block(index, *row) for index, row in enumerate(table(widths)))
        self.end = pointwise(widths[-1], self.width, key=next(keys))
        self.end_norm = NORM(self.width)


def _contexts(factor: float) -> tuple[int, ...]:
    """The contexts of all blocks: a quarter of the inner channels, limited to 32 to 128 times the factor."""
    bottom, top = divisible(32 * factor), divisible(128 * factor)
    return tuple(min(max(divisible(inner // 4), bottom), top) for inner in scaled(factor)[1])


dymn04 = partial(DyMN, *scaled(0.4), _contexts(0.4))
dymn10 = partial(DyMN, *scaled(1.0), _contexts(1.0))
dymn20 = partial(DyMN, *scaled(2.0), _contexts(2.0))
