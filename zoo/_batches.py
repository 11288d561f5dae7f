"""Windows in batches of one shape, which one program computes on all devices."""

import collections
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from audax_eqx import tree

from ._audio import NOTHING, Window
from ._pretrained import Pretrained, nameless, takes_length
from ._result import Rows
from ._wave import warn_of_scale

RUNS = 2  # batches on the devices at the same time
BATCH = {"cpu": 2}  # windows in a batch on one device, as `benchmarks/recordings.py` measured; 32 on other platforms
DEVICES = "data"
SHARES = PartitionSpec(DEVICES)


def batch_size(devices: Sequence[jax.Device]) -> int:
    """The number of windows in a batch over all devices, if the caller gives none."""
    return BATCH.get(devices[0].platform, 32) * len(devices)


class Batches:
    """Batches of windows on all local devices: the devices compute `RUNS` batches while the host fills another."""

    def __init__(self, clip: Pretrained, function: Callable, samples: int, batch: int | None, half: bool):
        devices = _devices(clip)
        share = math.ceil((batch or batch_size(devices)) / len(devices))
        self.size, self.samples, self.name = share * len(devices), samples, clip.entry.name
        self.shortest = clip.model.frontend.min_samples  # a shorter recording is padded, as callers of the model do
        mesh = Mesh(np.array(devices), (DEVICES,))
        leaves, structure = jax.tree.flatten(nameless(tree.half(clip) if half else clip))
        arrays = [leaf if eqx.is_array(leaf) else None for leaf in leaves]
        others = tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves)
        arrays = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))  # once, not for each batch
        self.sharding = NamedSharding(mesh, SHARES)
        self.program = functools.partial(_program, function, structure, others, mesh, arrays)
        self.places: list[tuple[Window, Rows]] = []
        self.results: collections.deque[tuple[Array, list[tuple[Window, Rows]]]] = collections.deque()

    def add(self, window: Window, rows: Rows) -> None:
        """Puts a window into the batch; its values will go to `rows`. A full batch goes to the devices."""
        warn_of_scale(window.wave, self.name)
        rows.backlog += 1
        self.places.append((window, rows))
        if len(self.places) == self.size:
            self._launch()
            self._collect(RUNS)

    def finish(self) -> None:
        """Waits until all rows have their values."""
        if self.places:
            self._launch()
        self._collect(0)

    def close(self) -> None:
        """Waits for the batches on the devices and drops their values: a process that ends while they run may crash."""
        for values, _ in self.results:
            values.block_until_ready()
        self.results.clear()

    def _launch(self) -> None:
        waves, lengths = np.zeros((self.size, self.samples), np.float32), np.full(self.size, self.samples, np.int32)
        for place, (window, _) in enumerate(self.places):
            waves[place], lengths[place] = window.wave, max(window.samples, self.shortest)
        values = self.program(*jax.device_put((waves, lengths), self.sharding))
        values.copy_to_host_async()
        self.results.append((values, [(window._replace(wave=NOTHING), rows) for window, rows in self.places]))
        self.places = []

    def _collect(self, limit: int) -> None:
        while len(self.results) > limit:
            values, rows_by_place = self.results.popleft()
            for value, (window, rows) in zip(np.asarray(values, np.float32), rows_by_place, strict=False):
                rows.take(window, value)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _program(
    function: Callable, structure: Any, others: tuple, mesh: Mesh, arrays: list, waves: Array, lengths: Array
) -> Array:
    """Applies `function` to each wave with the clip of this structure.

    The clip's leaves are `arrays`, and `others` where an array is None. Models that can mask padding get the number of
    samples of the recording in each wave. `eqx.filter_jit` is not used here because it would wait for the values.
    """

    def share(arrays, waves, lengths):
        leaves = [other if array is None else array for array, other in zip(arrays, others, strict=True)]
        clip = jax.tree.unflatten(structure, leaves)
        return jax.vmap(lambda wave, length: function(clip, wave, length if takes_length(clip) else None))(
            waves, lengths
        )

    specs = PartitionSpec(), SHARES, SHARES
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=SHARES, check_vma=False)(arrays, waves, lengths)


def _devices(clip: Pretrained) -> list[jax.Device]:
    """The devices of this host on which the caller put the model; all devices of this host if it is on none."""
    for leaf in jax.tree.leaves(clip):
        if isinstance(leaf, jax.Array) and leaf.committed:
            return sorted(leaf.sharding.addressable_devices, key=lambda device: device.id)
    return jax.local_devices()
