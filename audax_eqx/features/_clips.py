"""Programs that compute a feature of each clip of a batch; the last programs stay compiled.

A feature is a function `fun(clip, options)` of one clip. Its options are static and hashable, like a frozen dataclass.
"""

import functools
import math
from collections.abc import Callable, Hashable

import jax
from jaxtyping import Array

from .._portable import portable
from .._sharding import by_share

RATES = 8  # the number of programs and tables of resampling that stay


def last_programs(count: int, together: bool = False) -> Callable[..., Array]:
    """A function `each_clip(fun, options, clips, rank=1)` that compiles `_over_clips` and keeps its last programs.

    Each program takes 1.6 MB and the size of its tables. `jax.jit` itself keeps thousands of programs, one for each
    length of a clip and each pair of rates. With `together` the program computes all clips at once on a CPU too.
    """

    @functools.lru_cache(count)
    def program(fun, options, rank, shape, dtype):
        def run(clips):
            return _over_clips(functools.partial(fun, options=options), clips, rank, together)

        run.__name__ = fun.__name__
        return jax.jit(run)

    def each_clip(fun: Callable[..., Array], options: Hashable, clips: Array, rank: int = 1) -> Array:
        return program(fun, options, rank, clips.shape, clips.dtype)(clips)

    return each_clip


each_clip = last_programs(64)
# A random rate rarely occurs twice, so few programs are kept. Resampling computes all clips at once because it consists
# of matrix products, and XLA divides large products among the cores.
stretch_each_clip = last_programs(RATES)
resample_each_clip = last_programs(RATES, together=True)


def _over_clips(plain: Callable[[Array], Array], clips: Array, rank: int, together: bool) -> Array:
    """`plain(clip)` over the leading axes of `clips` (a clip has `rank` axes) and over those of any `vmap`.

    On a CPU one clip is computed after the other, unless `together`: the spectra of one clip fit into the cache, those
    of a batch do not, which makes a batched FFT two to five times slower. Derivatives with respect to the
    samples, which training does not need, are those of `plain`, in forward and reverse mode and of any order; under
    `vmap` they are computed for all clips at once.
    """

    @jax.custom_batching.custom_vmap
    def batched(clip):
        return plain(clip)

    @batched.def_vmap
    def rule(size, is_batched, clips):
        at_once, loop = jax.vmap(plain), functools.partial(jax.lax.map, batched)

        def share(clips):
            return at_once(clips) if together else jax.lax.platform_dependent(clips, cpu=loop, default=at_once)

        return by_share(share, clips), True

    @jax.custom_jvp
    def one(clip):
        return plain(clip) if portable.value else batched(clip)

    one.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))

    batch, shape = clips.shape[: clips.ndim - rank], clips.shape[clips.ndim - rank :]
    if not batch:
        return one(clips)
    y = jax.vmap(one)(clips.reshape(math.prod(batch), *shape))
    return y.reshape(*batch, *y.shape[1:])
