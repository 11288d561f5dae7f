"""The length of a recording in a padded input: its first `length` samples, frames or tokens; None for the whole input.

`length` may be traced, so that recordings of many lengths need one program. The padding does not change the result.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Length = Int[Array, ""] | int | None


def within(size: int, length: Length) -> Bool[Array, " {size}"]:
    """Which of `size` positions belong to the recording."""
    positions = jnp.arange(size, dtype=jnp.int32)
    return positions < (size if length is None else jnp.asarray(length, jnp.int32))


def zero_behind(x: Float[Array, "size *rest"], length: Length) -> Float[Array, "size *rest"]:
    """`x` with its rows behind the first `length` replaced by zeros."""
    if length is None:
        return x
    inside = within(len(x), length).reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(inside, x, jnp.zeros_like(x))


def reflect(x: Float[Array, "size *rest"], count: int, length: Length = None) -> Float[Array, "more *rest"]:
    """`x` with `count` more rows at each end, reflected at its first row and at row `length - 1`.

    If `x` is shorter than `count`, it is reflected several times; a single row is repeated. Rows behind the reflected
    ones have no meaning.
    """
    if count == 0:
        return x
    last = jnp.asarray(len(x) if length is None else jnp.clip(length, 1, len(x)), jnp.int32) - 1

    def mirror(positions: Int[Array, " count"]) -> Float[Array, "count *rest"]:
        places = positions % jnp.maximum(2 * last, 1)
        return x[jnp.minimum(places, 2 * last - places)]

    steps = jnp.arange(count, dtype=jnp.int32)
    before, after = mirror(steps - count), mirror(last + 1 + steps)
    if length is None:
        return jnp.concatenate([before, x, after])
    padded = jnp.concatenate([before, x, jnp.zeros_like(after)])
    return jax.lax.dynamic_update_slice_in_dim(padded, after, count + last + 1, axis=0)


def mean_first(x: Float[Array, "size *rest"], length: Length = None) -> Float[Array, "*rest"]:
    """The mean over the first `length` rows, at least one row, computed in float32."""
    wide = x.astype(jnp.float32)
    if length is None:
        return jnp.mean(wide, axis=0).astype(x.dtype)
    count = jnp.clip(jnp.asarray(length, jnp.float32), 1.0, len(x))
    return (jnp.sum(zero_behind(wide, jnp.maximum(length, 1)), axis=0) / count).astype(x.dtype)


def keyword(length: Length) -> dict[str, Length]:
    """`length` as a keyword argument; no argument if it is None, because some networks accept none."""
    return {} if length is None else {"length": length}
