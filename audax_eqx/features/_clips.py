"""Programs that compute a feature of one clip after the other, of which the last ones stay compiled.

A feature is a function `fun(clip, options)` of one clip. Its options are static and hashable: a frozen dataclass, say.
"""

import functools
import math
from collections.abc import Callable, Hashable

import jax
from jaxtyping import Array

from .._sharding import by_share

RATES = 8  # as many programs and tables of resampling stay


def last_programs(count: int) -> Callable[..., Array]:
    """`each_clip(fun, options, clips, rank=1)`, which compiles `_one_by_one` and keeps its last `count` programs.

    Each of them takes 1.6 MB and the size of its tables. `jax.jit` itself keeps thousands: for each length of a clip,
    and each pair of rates.
    """

    @functools.lru_cache(count)
    def program(fun, options, rank, shape, dtype):
        def run(clips):
            return _one_by_one(functools.partial(fun, options=options), clips, rank)

        run.__name__ = fun.__name__
        return jax.jit(run)

    def each_clip(fun: Callable[..., Array], options: Hashable, clips: Array, rank: int = 1) -> Array:
        return program(fun, options, rank, clips.shape, clips.dtype)(clips)

    return each_clip


each_clip = last_programs(64)
each_clip_of_rates = last_programs(RATES)  # what is resampled or stretched at random never comes again


def _one_by_one(plain: Callable[[Array], Array], clips: Array, rank: int) -> Array:
    """`plain(clip)` over the leading axes of `clips` (a clip has `rank` axes) and over those of any `vmap`.

    On a CPU one clip goes after the other: its spectra stay in cache, those of a batch do not, which makes a batched
    FFT two to five times slower. Derivatives by the samples, which training does not take, are those of `plain`, in
    forward and reverse mode and of any order, and batch in the plain way.
    """

    @jax.custom_batching.custom_vmap
    def sequential(clip):
        return plain(clip)

    @sequential.def_vmap
    def rule(size, batched, clips):
        loop = functools.partial(jax.lax.map, sequential)

        def share(clips):
            return jax.lax.platform_dependent(clips, cpu=loop, default=jax.vmap(plain))

        return by_share(share, clips), True

    @jax.custom_jvp
    def one(clip):
        return sequential(clip)

    one.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))

    batch, shape = clips.shape[: clips.ndim - rank], clips.shape[clips.ndim - rank :]
    if not batch:
        return one(clips)
    y = jax.vmap(one)(clips.reshape(math.prod(batch), *shape))
    return y.reshape(*batch, *y.shape[1:])
