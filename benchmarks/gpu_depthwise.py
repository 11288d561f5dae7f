"""The depthwise convolutions that `gpu.py` compares: XLA's, the shifts of `audax_eqx`, and a kernel in Pallas."""

import depthwise
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

LANES = 32  # channels of a program
SMALL = (4, 2, 32), 3, 1  # frames, bins, channels; kernel; stride


def kernel(x, weight, y):
    """Computes one row of a map, `bins LANES`: the sum over taps of the padded map, moved by the tap, times the tap."""
    total = jnp.zeros(y.shape[2:], jnp.float32)
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            part = x[0, pl.program_id(1) + row, pl.ds(column, y.shape[2]), :].astype(jnp.float32)
            total += part * weight[row, column, 0, :].astype(jnp.float32)[None]
    y[0, 0] = total.astype(y.dtype)


def convolve_by_pallas(x, weight, interpret: bool):
    """Convolves a batch of maps with torch's padding and stride 1.

    Each program computes one row of 32 channels. The number of bins is a power of two.
    """
    size = weight.shape[0]
    maps = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    batch, frames, bins, channels = x.shape
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=(batch, frames, channels // LANES),
        in_specs=[
            pl.BlockSpec((1, *maps.shape[1:3], LANES), lambda clip, row, lanes: (clip, 0, 0, lanes)),
            pl.BlockSpec((size, size, 1, LANES), lambda clip, row, lanes: (0, 0, 0, lanes)),
        ],
        out_specs=pl.BlockSpec((1, 1, bins, LANES), lambda clip, row, lanes: (clip, row, 0, lanes)),
        interpret=interpret,
    )(maps, weight)


def ways(stage: str, batch: int, interpret: bool) -> dict[str, dict]:
    """The functions of each way to convolve, by direction and name. They wait for their result."""
    (frames, bins, channels), kernel_size, stride = depthwise.STAGES.get(stage, SMALL)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, frames, bins, channels), jnp.bfloat16)
    outputs = (batch, -(-frames // stride), -(-bins // stride), channels)
    gradient = jax.random.normal(keys[1], outputs, jnp.bfloat16)
    weight = jax.random.normal(keys[2], (kernel_size, kernel_size, 1, channels), jnp.bfloat16)
    directions = depthwise.ways(kernel_size, stride)
    if stride == 1:
        pallas = jax.jit(lambda x, weight, gradient: convolve_by_pallas(x, weight, interpret))
        directions["forward"]["pallas"] = pallas

    def bind(run):
        return lambda: jax.block_until_ready(run(x, weight, gradient))

    return {direction: {name: bind(run) for name, run in runs.items()} for direction, runs in directions.items()}
