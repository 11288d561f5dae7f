"""Filters at full rate and windows over what they give, without ever holding all of it.

    wave --FFT of overlapping blocks--> spectra --x filter, inverse FFT--> full rate --windows--> frames
                                        (once)  \\_______ one filter after the other ________/

A bank of 64 filters over 5 s at 16 kHz makes 5 million samples, of which 500 x 64 numbers are left in the end. Here
one filter's samples at a time exist, in the backward pass too, which makes them anew. On CPU a block's transform stays
in the first cache, and a batch (`vmap`) is as fast as a loop over its clips. `benchmarks/cpu.py` measures LEAF
beside the direct convolution with its 128 x 401 taps. Accelerators have not been measured.
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

_CACHE = 4000  # complex64 samples: a transform longer than 32 KB, a core's first cache, takes 1.6 times as long


def window_and_stride(name: str, sample_rate: int, window_ms: float, stride_ms: float) -> tuple[int, int]:
    """Both in samples, rounded as in audax: a window of 25 ms has 401 samples at 16 kHz."""
    window, stride = int(sample_rate * window_ms // 1000 + 1), int(sample_rate * stride_ms // 1000)
    if window < 5 or stride < 1:
        raise ValueError(
            f"{name} with window_ms={window_ms} and stride_ms={stride_ms} has windows of {window} samples every "
            f"{stride} at {sample_rate} Hz: make them long enough for 5 samples and 1."
        )
    return window, stride


def first_centre(window: int, stride: int) -> float:
    """The sample at the centre of frame 0, in a clip of a whole number of strides.

    "SAME" padding depends on the length. In such clips, and as nearly as samples allow, frame t is centred on its own
    stride, t stride ... (t + 1) stride - 1; in others all frames lie earlier, by up to half a stride.
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
    """Correlates `wave` with each filter, given by its real and its imaginary part, then reduces windows of `taps`
    samples every `stride`; both padded as "SAME".

    A window is a few whole strides and a part of one. `pool(real, imaginary, inside, taps, parameters)` takes the parts
    of one filter's output cut into strides, `strides stride`, a mask of the samples that are not padding, and the
    filter's own parameters; it returns `strides parts ...`: what each stride gives to a window of which it is the
    first, second, ... part. The parts of a window are then `combine`d.
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

    def windows(real, imaginary, parameters):
        """The frames of one filter, whose output has `blocks * hop` samples."""
        pooled = pool(real.reshape(-1, stride), imaginary.reshape(-1, stride), inside, taps, parameters)
        return functools.reduce(combine, [pooled[part : part + frames, part] for part in range(parts)])

    if portable.value:
        real, imaginary = (_correlated(padded, part)[:, : blocks * hop] for part in filters)
        return jnp.moveaxis(jax.vmap(windows)(real, imaginary, parameters), 1, 0)

    spectra = _fft(jax.vmap(lambda start: jax.lax.dynamic_slice(padded, (start,), (block,)))(starts))
    # Correlation, not convolution: the filter is not turned round, but its spectrum is.
    responses = jnp.fft.ifft(jnp.pad(jax.lax.complex(*filters), ((0, 0), (0, block - taps))), norm="forward")

    def one(filter_):
        response, parameters = filter_
        # Flat in between: a batch on a mesh with Explicit axes knows no reshape that merges and splits at once.
        y = _ifft(spectra * response[None])[:, :hop].reshape(-1)
        return windows(y.real, y.imag, parameters)

    # Without the checkpoint the backward pass would keep the full rate of all filters.
    frames_last = jax.lax.map(jax.checkpoint(one, prevent_cse=False), (responses, parameters))
    return jnp.moveaxis(frames_last, 1, 0)


def _correlated(wave: Array, filters: Array) -> Array:
    """`filters samples`: the wave under each filter, as a convolution that needs neither transforms nor loops."""
    layout = ("NHC", "HIO", "NHC")
    kernel = filters.T[:, None]
    return jax.lax.conv_general_dilated(wave[None, :, None], kernel, (1,), "VALID", dimension_numbers=layout)[0].T


def _spread(transform: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A Fourier transform that leaves a batch, the axis of a `vmap`, on its devices; reverse mode only.

    Its matrix is symmetric, so that it is its own transpose.
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
    """How many strides a block yields, its length with the overlap, and the number of blocks, for the least work."""

    def work(count):
        block = _fast_length(count * stride + taps - 1)
        passes = math.log2(block) + 6  # those of the transform, and the products' and the pooling's
        return -(-strides // count) * block * passes * (1.0 if block < _CACHE else 1.6)

    most = max(_CACHE, 8 * taps) // stride + 1
    count = min(range(1, min(strides, most) + 1), key=work)
    return count, _fast_length(count * stride + taps - 1), -(-strides // count)


def _fast_length(least: int) -> int:
    """The smallest multiple of 16 from `least` with no prime factor above 5; odd lengths are slow as memory goes."""
    length = -(-least // 16) * 16
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 16
