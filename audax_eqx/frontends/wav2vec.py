"""wav2vec 2.0's convolutional encoder (Baevski et al., 2020, arXiv:2006.11477), which HuBERT, WavLM and data2vec share.

    wave, minus its mean and divided by its standard deviation
      -> 7 x gelu(norm(convolution)) -> a frame of 512 numbers every 20 ms

    | layer    |  1 | 2 | 3 | 4 | 5 | 6 | 7 |     at 16 kHz a frame covers 400 samples, and begins every 320 samples
    | kernel   | 10 | 3 | 3 | 3 | 3 | 2 | 2 |
    | stride   |  5 | 2 | 2 | 2 | 2 | 2 | 2 |

Base models have one norm, behind the first convolution: it normalises each channel over time, so that every frame
depends on the whole clip, and also on its padding unless `length` is given. Large models have a LayerNorm behind each
convolution.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import require_choice
from ..abstract import AbstractFrontend
from ..layers import Activation, LayerNorm, Length, TimeConv, activate, mean_first
from ..layers.initial import full, split


class TimeNorm(eqx.Module):
    """Normalises each channel over time, with a scale and a shift: GroupNorm (Wu and He, 2018, arXiv:1803.08494) with
    as many groups as channels. With a `length` the statistics are those of the first `length` steps."""

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]

    def __init__(self, channels: int):
        self.weight, self.bias = full(channels, 1.0), full(channels, 0.0)

    def __call__(self, x: Float[Array, "time channels"], *, length: Length = None) -> Float[Array, "time channels"]:
        centred = x - mean_first(x, length)[None]
        variance = mean_first(jnp.square(centred), length)
        return centred * (self.weight * jax.lax.rsqrt(variance + 1e-5))[None] + self.bias[None]


class ConvLayer(eqx.Module):
    """A convolution over time without padding, an optional norm, and the activation."""

    conv: TimeConv
    norm: TimeNorm | LayerNorm | None
    activation: Activation = eqx.field(static=True)

    def __call__(self, x: Float[Array, "time inputs"], *, length: Length) -> Float[Array, "newtime channels"]:
        y = self.conv(x)
        if isinstance(self.norm, TimeNorm):
            y = self.norm(y, length=length)
        elif self.norm is not None:
            y = self.norm(y)
        return activate(y, self.activation)


class Wav2Vec(AbstractFrontend):
    """Maps one clip, `samples` in [-1, 1], to `frames bins`, in float32; the bins are the channels of the last layer.

    - `sample_rate`: Hz.
    - `widths`, `kernels`, `strides`: channels, taps and steps of each convolution.
    - `norm`: "group", a norm over time behind the first convolution, or "layer", a norm over channels behind each.
    - `bias`: whether the convolutions have a bias.
    - `normalize`: whether the wave is normalised first.
    - `activation`: "gelu" (exact), "gelu_tanh", "relu" or "silu".
    - `key`: the key of the random weights.

    Raises ValueError for sizes that do not go together, and for a waveform shorter than `min_samples`, which is one
    frame.
    """

    layers: tuple[ConvLayer, ...]
    sample_rate: int = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    kernels: tuple[int, ...] = eqx.field(static=True)
    strides: tuple[int, ...] = eqx.field(static=True)
    normalize: bool = eqx.field(static=True)

    def __init__(
        self,
        sample_rate: int = 16000,
        *,
        widths: Sequence[int] = (512,) * 7,
        kernels: Sequence[int] = (10, 3, 3, 3, 3, 2, 2),
        strides: Sequence[int] = (5, 2, 2, 2, 2, 2, 2),
        norm: str = "group",
        bias: bool = False,
        normalize: bool = True,
        activation: Activation = "gelu",
        key: PRNGKeyArray,
    ):
        require_choice("norm", norm, ("group", "layer"))
        if not len(widths) == len(kernels) == len(strides) > 0 or min(*widths, *kernels, *strides) < 1:
            raise ValueError(
                "Wav2Vec takes as many widths as kernels and strides, all at least 1, got "
                f"{tuple(widths)}, {tuple(kernels)} and {tuple(strides)}."
            )
        layers = []
        sizes = zip((1, *widths), widths, kernels, strides, split(key, len(widths)), strict=False)
        for index, (inputs, width, kernel, stride, conv_key) in enumerate(sizes):
            conv = TimeConv(inputs, width, kernel, stride=stride, padding="valid", bias=bias, key=conv_key)
            first = TimeNorm(width) if index == 0 else None
            layers.append(ConvLayer(conv, first if norm == "group" else LayerNorm(width, eps=1e-5), activation))
        self.layers, self.sample_rate, self.bins = tuple(layers), sample_rate, widths[-1]
        self.kernels, self.strides, self.normalize = tuple(kernels), tuple(strides), normalize

    @property
    def min_samples(self) -> int:
        """The number of samples that a frame covers."""
        samples = 1
        for kernel, stride in zip(self.kernels[::-1], self.strides[::-1], strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def takes_length(self) -> bool:
        return True

    def frames(self, samples: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """The number of frames that lie within a clip of so many samples."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def __call__(self, wave: Float[Array, " samples"], *, length: Length = None) -> Float[Array, "frames {self.bins}"]:
        if wave.size < self.min_samples:
            raise ValueError(
                f"Wav2Vec takes at least one frame, {self.min_samples} samples "
                f"({self.min_samples / self.sample_rate:.3f} s at {self.sample_rate} Hz), got {wave.size}: pad the "
                "clip with zeros."
            )
        y = wave.astype(jnp.float32)
        if self.normalize:
            y = y - mean_first(y, length)
            y = y * jax.lax.rsqrt(mean_first(jnp.square(y), length) + 1e-7)
        y = y[:, None]
        for layer, kernel, stride in zip(self.layers, self.kernels, self.strides, strict=True):
            length = None if length is None else (length - kernel) // stride + 1
            y = layer(y, length=length)
        return y

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        return (positions * np.prod(self.strides) + (self.min_samples - 1) / 2) / self.sample_rate
