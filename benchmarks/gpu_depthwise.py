"""Depthwise convolution for `gpu.py`: XLA's, the shifts of `audax_eqx`, and a kernel in Pallas."""

import depthwise
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

LANES = 32  # channels of a program
SMALL = (4, 2, 32), 3, 1  # frames, bins, channels; kernel; stride


def kernel(x, weight, y):
    """One row of a map, `bins LANES`: the sum over taps of the padded map, shifted, times the tap's channels."""
    total = jnp.zeros(y.shape[2:], jnp.float32)
    for down in range(weight.shape[0]):
        for across in range(weight.shape[1]):
            shifted = x[0, pl.program_id(1) + down, pl.ds(across, y.shape[2]), :].astype(jnp.float32)
            total += shifted * weight[down, across, 0, :].astype(jnp.float32)[None]
    y[0, 0] = total.astype(y.dtype)


def by_pallas(x, weight, interpret: bool):
    """A batch of maps with torch's padding, stride 1; a program makes one row of 32 channels, of 2^n bins."""
    size = weight.shape[0]
    padded = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    batch, frames, bins, channels = x.shape
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=(batch, frames, channels // LANES),
        in_specs=[
            pl.BlockSpec((1, *padded.shape[1:3], LANES), lambda clip, row, lanes: (clip, 0, 0, lanes)),
            pl.BlockSpec((size, size, 1, LANES), lambda clip, row, lanes: (0, 0, 0, lanes)),
        ],
        out_specs=pl.BlockSpec((1, 1, bins, LANES), lambda clip, row, lanes: (clip, row, 0, lanes)),
        interpret=interpret,
    )(padded, weight)


def roads(stage: str, batch: int, interpret: bool) -> dict[str, dict]:
    """What each road computes, by direction and name: functions that wait for their result."""
    (frames, bins, channels), kernel_size, stride = depthwise.STAGES.get(stage, SMALL)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, frames, bins, channels), jnp.bfloat16)
    outputs = (batch, -(-frames // stride), -(-bins // stride), channels)
    gradient = jax.random.normal(keys[1], outputs, jnp.bfloat16)
    weight = jax.random.normal(keys[2], (kernel_size, kernel_size, 1, channels), jnp.bfloat16)
    by_name = depthwise.roads(kernel_size, stride)
    if stride == 1:
        by_name["forward"]["pallas"] = jax.jit(lambda x, weight, gradient: by_pallas(x, weight, interpret))

    def waiting(run):
        return lambda: jax.block_until_ready(run(x, weight, gradient))

    return {direction: {name: waiting(run) for name, run in names.items()} for direction, names in by_name.items()}
