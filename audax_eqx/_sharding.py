"""A batch that is spread over several devices, for work that XLA would not leave spread.

XLA gathers all of a batch on each device for a Fourier transform and for a loop over its examples. `by_share` and
`sum_by_share` give such work the examples that the device has: `vmap` shows the whole batch, `jax.typeof` the mesh that
it lies on.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array


def by_share(run: Callable[[Array], Array], batch: Array) -> Array:
    """`run(batch)` for a `run` that treats each example alone, on each device over its own share of them.

    Examples lie along the first axis, whose size may be symbolic without a mesh (`jax.export`).

    Of an Explicit axis of the mesh one knows whether the batch lies on it. Of an Auto axis one does not, and takes it
    wherever it divides the batch: there each device has a share to compute, even if it was given all. Under
    `jax.shard_map` the batch is a share already.
    """
    axes, options = _share(batch)
    return jax.shard_map(run, in_specs=P(axes), out_specs=P(axes), **options)(batch) if axes else run(batch)


def sum_by_share(run: Callable[[Array, Array], Array], batch: Array, other: Array) -> Array:
    """`run(batch, other)` for a `run` that sums over the examples of both, as the sum over the devices' shares."""
    axes, options = _share(batch)
    if not axes:
        return run(batch, other)

    def share(batch, other):
        return jax.lax.psum(run(batch, other), axes)

    return jax.shard_map(share, in_specs=(P(axes), P(axes)), out_specs=P(), **options)(batch, other)


def _share(batch: Array) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The axes of the mesh over which a batch is spread, and what `jax.shard_map` needs to know of the mesh."""
    sharding = jax.typeof(batch).sharding
    if sharding.mesh.empty:
        return (), {}
    names = {name for name, kind in _kinds(sharding) if kind is not AxisType.Manual}
    return _axes(sharding, batch.shape[0]), {"mesh": sharding.mesh, "axis_names": names, "check_vma": False}


def _axes(sharding: NamedSharding, size: int) -> tuple[str, ...]:
    """The axes of the mesh over which a first axis of `size` is, or may be, spread."""
    first = sharding.spec[0]
    axes = () if first is None else first if isinstance(first, tuple) else (first,)
    share = size // math.prod(sharding.mesh.shape[name] for name in axes)
    for name, kind in _kinds(sharding):
        devices = sharding.mesh.shape[name]
        if kind is AxisType.Auto and share % devices == 0 and devices > 1:
            axes, share = (*axes, name), share // devices
    return axes


def _kinds(sharding: NamedSharding) -> list[tuple[str, AxisType]]:
    return list(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
