"""A batch that is spread over several devices, for work that XLA would not leave spread.

XLA gathers all of a batch on each device for a Fourier transform and for a loop over its examples. `by_share` gives
such work the examples that the device has: `vmap` shows the whole batch, `jax.typeof` the mesh that it lies on.
"""

import math
from collections.abc import Callable

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
    sharding = jax.typeof(batch).sharding
    axes = () if sharding.mesh.empty else _axes(sharding, batch.shape[0])
    if not axes:
        return run(batch)
    names = {name for name, kind in _kinds(sharding) if kind is not AxisType.Manual}
    spec = P(axes)
    return jax.shard_map(
        run, mesh=sharding.mesh, in_specs=spec, out_specs=spec, axis_names=names, check_vma=False
    )(batch)  # fmt: skip


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
