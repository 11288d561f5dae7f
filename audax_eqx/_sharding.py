"""A batch that is spread over several devices, for work that XLA would gather on every device.

XLA gathers the whole batch on each device for a Fourier transform and for a loop over examples. `by_share` and
`sum_by_share` run such work on the examples that the device has. `vmap` gives them the whole batch, and `jax.typeof`
the mesh on which the batch lies.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array


def by_share(run: Callable[[Array], Array], batch: Array) -> Array:
    """`run(batch)`, where `run` treats each example alone; each device computes its own share of the examples.

    Examples lie along the first axis, whose size may be symbolic without a mesh (`jax.export`).

    The type of the batch says whether it lies on an Explicit axis of the mesh. It does not say so for an Auto axis, so
    this function divides the batch over every Auto axis whose size divides it: each device then computes a share, even
    if it holds the whole batch. Under `jax.shard_map` the batch is a share already.
    """
    axes, options = _share(batch)
    return jax.shard_map(run, in_specs=P(axes), out_specs=P(axes), **options)(batch) if axes else run(batch)


def sum_by_share(run: Callable[[Array, Array], Array], batch: Array, other: Array) -> Array:
    """`run(batch, other)`, where `run` sums over the examples of both: the sum of the devices' partial sums."""
    axes, options = _share(batch)
    if not axes:
        return run(batch, other)

    def add_shares(batch, other):
        return jax.lax.psum(run(batch, other), axes)

    return jax.shard_map(add_shares, in_specs=(P(axes), P(axes)), out_specs=P(), **options)(batch, other)


def _share(batch: Array) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The axes of the mesh over which a batch is spread, and the options for `jax.shard_map` on that mesh."""
    sharding = jax.typeof(batch).sharding
    if sharding.mesh.empty:
        return (), {}
    names = {name for name, kind in _kinds(sharding) if kind is not AxisType.Manual}
    return _axes(sharding, batch.shape[0]), {"mesh": sharding.mesh, "axis_names": names, "check_vma": False}


def _axes(sharding: NamedSharding, size: int) -> tuple[str, ...]:
    """The axes of the mesh over which an array is spread, or may be spread, if its first axis has this `size`."""
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
