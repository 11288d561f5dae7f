"""Initial values of parameters: normal random numbers, and vectors of one number. All are float32.

XLA compiles a program for each shape of random numbers, and a program with threefry takes a third of a second to
compile on CPU: a network of 80 layers took minutes to build. Here all shapes share one program, which draws a chunk of
numbers, and vectors of one number need no program.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

CHUNK = 2**16


def normal(key: PRNGKeyArray, shape: tuple[int, ...], scale: float) -> Float[Array, "*shape"]:
    """Normal numbers with standard deviation `scale`, the same for a key with and without `jit`.

    Number n is number n % CHUNK of the draw with the key that is folded with n // CHUNK.
    """
    size = math.prod(shape)
    count = -(-size // CHUNK)
    if isinstance(key, Tracer):
        chunks = jax.lax.map(functools.partial(_chunk, key), jnp.arange(count, dtype=jnp.uint32))
        return scale * chunks.reshape(-1)[:size].reshape(shape)
    chunks = [_chunk(key, np.uint32(index)) for index in range(count)]
    numbers = np.concatenate([np.zeros(0, np.float32), *chunks])[:size].reshape(shape)
    return jax.device_put(np.float32(scale) * numbers)  # `jnp.asarray` compiles a program for each shape, too


def full(size: int, value: float) -> Float[Array, " {size}"]:
    """A vector of `size` numbers that all equal `value`."""
    return jax.device_put(np.full(size, value, np.float32))


def split(key: PRNGKeyArray, count: int) -> list[PRNGKeyArray]:
    """A key for each of `count` parts. `jax.random.split` would compile a program for each count."""
    return [_part(key, np.uint32(index)) for index in range(count)]


_part = jax.jit(jax.random.fold_in)


@jax.jit
def _chunk(key: Array, index: Array) -> Array:
    return jax.random.normal(jax.random.fold_in(key, index), (CHUNK,), jnp.float32)
