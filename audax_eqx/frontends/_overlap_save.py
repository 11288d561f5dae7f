"""Filters at full rate and windows over their outputs, without keeping all outputs in memory.

    wave --FFT of overlapping blocks--> spectra --x filter, inverse FFT--> full rate --windows--> frames
                                        (once)  \\_______ one filter after the other ________/

A bank of 64 filters over 5 s at 16 kHz makes 5 million samples, which the windows reduce to 500 x 64 numbers. This
module keeps the samples of one filter at a time in memory; the backward pass does too, and computes them anew. On CPU
the transform of a block stays in the first cache, and a batch (`vmap`) is as fast as a loop over its clips.
`benchmarks/cpu.py` compares LEAF with a direct convolution of 128 x 401 taps. Accelerators have not been measured.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from .._portable import portable
from .._sharding import by_share
from ..layers.conv import pads

_CACHE = 4000  # complex64 samples, 32 KB, a core's first cache: a longer transform takes 1.6 times as long


def window_and_stride(name: str, sample_rate: int, window_ms: float, stride_ms: float) -> tuple[int, int]:
    """The window and the stride in samples, rounded as in audax: 25 ms are 401 samples at 16 kHz."""
    window, stride = int(sample_rate * window_ms // 1000 + 1), int(sample_rate * stride_ms // 1000)
    if window < 5 or stride < 1:
        raise ValueError(
            f"{name} with window_ms={window_ms} and stride_ms={stride_ms} has windows of {window} samples every "
            f"{stride} at {sample_rate} Hz: make the window 5 samples or longer and the stride 1 or longer."
        )
    return window, stride


def first_centre(window: int, stride: int) -> float:
    """The sample at the centre of frame 0, in a clip of a whole number of strides.

    "SAME" padding depends on the length. In such clips frame t is centred on its own stride, the samples from t stride
    to (t + 1) stride - 1, to within half a sample. In other clips all frames lie earlier, by up to half a stride.
    """
    return (window - 1) / 2 - max(window - stride, 0) // 2


@functools.partial(jax.jit, static_argnames=("stride", "pool", "combine"))
def filter_and_pool(
    wave: Float[Array, " samples"],
    filters: tuple[Float[Array, "filters taps"], Float[Array, "filters taps"]],
    parameters: PyTree[Shaped[Array, "filters ..."]],
    *,
    stride: int,
    pool: Callable[[Array, Array, Array, int, PyTree], Array],
    combine: Callable[[Array, Array], Array],
) -> Float[Array, "frames filters ..."]:
    """Correlates `wave` with each filter, then reduces windows of `taps` samples, one every `stride` samples.

    - `wave`: `samples`.
    - `filters`: the real and the imaginary parts of the filters, each `filters taps`.
    - `parameters`: arrays with one row for each filter, for `pool`.
    - `stride`: samples. Both steps pad as "SAME".
    - `pool(real, imaginary, inside, taps, parameters)`: reduces the strides of one filter's output. It gets the real
      and the imaginary part of the output, cut into strides (`strides stride`), a mask of the samples that are no
      padding, and the row of parameters. It gives `strides parts ...`: the contribution of each stride to the window
      of which the stride is the first part, the second part, and so on.
    - `combine`: combines the contributions of two parts of a window. A window consists of a few whole strides and a
      part of a stride.
    """
    samples, taps = wave.size, filters[0].shape[1]
    frames, parts = -(-samples // stride), -(-taps // stride)
    before = pads(samples, taps, stride, "same")[0]
    strides, block, blocks = _plan(frames + parts - 1, taps, stride)
    hop = strides * stride

    left = before + pads(samples, taps, 1, "same")[0]
    padded = jnp.pad(wave, (left, max((blocks - 1) * hop + block - left - samples, 0)))
    starts = jnp.arange(blocks, dtype=jnp.int32) * hop
    position = jnp.arange(blocks * hop, dtype=jnp.int32) - before
    inside = ((position >= 0) & (position < samples)).reshape(-1, stride)

    def pool_windows(real, imaginary, parameters):
        """The frames of one filter, whose output has `blocks * hop` samples."""
        pooled = pool(real.reshape(-1, stride), imaginary.reshape(-1, stride), inside, taps, parameters)
        return functools.reduce(combine, [pooled[part : part + frames, part] for part in range(parts)])

    if portable.value:
        real, imaginary = (_correlate(padded, part)[:, : blocks * hop] for part in filters)
        return jnp.moveaxis(jax.vmap(pool_windows)(real, imaginary, parameters), 1, 0)

    spectra = _fft(jax.vmap(lambda start: jax.lax.dynamic_slice(padded, (start,), (block,)))(starts))
    # This is a correlation, not a convolution: the inverse transform of the filter replaces the transform.
    responses = jnp.fft.ifft(jnp.pad(jax.lax.complex(*filters), ((0, 0), (0, block - taps))), norm="forward")

    def apply_filter(filter_):
        response, parameters = filter_
        # Two reshapes: on a mesh with Explicit axes one reshape cannot merge axes and split axes.
        y = _ifft(spectra * response[None])[:, :hop].reshape(-1)
        return pool_windows(y.real, y.imag, parameters)

    # Without the checkpoint the backward pass would keep the outputs of all filters at full rate.
    frames_last = jax.lax.map(jax.checkpoint(apply_filter, prevent_cse=False), (responses, parameters))
    return jnp.moveaxis(frames_last, 1, 0)


def _correlate(wave: Array, filters: Array) -> Array:
    """`filters samples`: the correlation with each filter, as one convolution without transforms or loops."""
    layout = ("NHC", "HIO", "NHC")
    kernel = filters.T[:, None]
    return jax.lax.conv_general_dilated(wave[None, :, None], kernel, (1,), "VALID", dimension_numbers=layout)[0].T


def _spread(transform: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The Fourier transform, computed for each example of a batch (`vmap`) on the example's device; reverse mode only.

    The matrix of the transform is symmetric, so the transform is its own transpose.
    """

    @jax.custom_batching.custom_vmap
    def batched(x):
        return transform(x)

    @batched.def_vmap
    def rule(size, is_batched, x):
        return by_share(batched, x), True

    @jax.custom_vjp
    def spread(x):
        return transform(x) if portable.value else batched(x)

    spread.defvjp(lambda x: (spread(x), None), lambda _, gradient: (spread(gradient),))
    return spread


_fft, _ifft = _spread(jnp.fft.fft), _spread(jnp.fft.ifft)


@functools.lru_cache
def _plan(strides: int, taps: int, stride: int) -> tuple[int, int, int]:
    """The strides in a block, its length with the overlap, and the number of blocks that make the least work."""

    def work(count):
        block = _fast_length(count * stride + taps - 1)
        passes = math.log2(block) + 6  # passes over the data: of the transform, and 6 of products and pooling
        return -(-strides // count) * block * passes * (1.0 if block < _CACHE else 1.6)

    max_count = max(_CACHE, 8 * taps) // stride + 1
    count = min(range(1, min(strides, max_count) + 1), key=work)
    return count, _fast_length(count * stride + taps - 1), -(-strides // count)


def _fast_length(min_length: int) -> int:
    """The smallest multiple of 16 from `min_length` on with no prime factor above 5; odd lengths make memory slow."""
    length = -(-min_length // 16) * 16
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 16
