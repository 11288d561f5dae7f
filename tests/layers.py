"""What the tests of layers share: random arrays, the relative error, windows of a map, and BatchNorm over a batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from audax_eqx.layers import BatchNorm

KEY = jax.random.key(0)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)


def with_bias(layer):
    return eqx.tree_at(lambda layer: layer.bias, layer, jnp.asarray(noise(*layer.bias.shape, seed=7)))


def zeros_around(size, kernel, stride, padding):
    """Zeros before and after one axis, after the definitions: torch's `padding=kernel // 2`, TensorFlow's SAME."""
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    if padding == "same":
        return jax.lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")[0]
    return 0, 0


def windows(x, kernel, stride, padding, value=0.0):
    """The map's patches under a kernel: time, freq, channels, height, width."""
    around = [zeros_around(*axis, padding) for axis in zip(x.shape, kernel, stride, strict=False)]
    x = np.pad(x.astype(np.float64), (*around, (0, 0)), constant_values=value)
    return np.lib.stride_tricks.sliding_window_view(x, kernel, (0, 1))[:: stride[0], :: stride[1]]


def batch_norm(*arguments, **options):
    return eqx.nn.make_with_state(BatchNorm)(*arguments, **options)


@eqx.filter_jit
def apply_batch(norm, state, x, axis_name="batch"):
    return jax.vmap(norm, (0, None), (0, None), axis_name=axis_name)(x, state)
