"""Checkpoints by Orbax: the carry as named arrays, and a record of metrics beside it.

Orbax writes a checkpoint under a temporary name while training continues, and renames it once it is whole. So a process
that is killed at any moment leaves whole checkpoints only.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from audax_eqx import tree

from .step import Carry


class Checkpoints:
    """The last `keep` checkpoints in a folder."""

    def __init__(self, folder: pathlib.Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def restore(self, carry: Carry) -> tuple[Carry, dict[str, Any]]:
        """The last checkpoint, on the devices of `carry`, and its record; `carry` itself if there is no checkpoint.

        Raises ValueError for a checkpoint of another model.
        """
        step = self.manager.latest_step()
        if step is None:
            return carry, {"metrics": {}, "best": None, "evaluated": 0}
        leaves, structure = jax.tree.flatten(carry)
        targets = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in zip(_names(carry), leaves, strict=True)
        }
        try:
            args = ocp.args.Composite(carry=ocp.args.StandardRestore(targets), record=ocp.args.JsonRestore())
            checkpoint = self.manager.restore(step, args=args)
        except (KeyError, ValueError) as error:
            raise ValueError(f"The run's checkpoint {step} is not of this model: {error}") from None
        # Copies, because the step donates these buffers while Orbax may still hold the arrays that it read
        carry = jax.tree.unflatten(structure, [jnp.copy(checkpoint["carry"][name]) for name in targets])
        return carry, checkpoint["record"]

    def save(self, step: int, carry: Carry, record: dict[str, Any]) -> None:
        """Begins to write a checkpoint, and returns once the carry may be overwritten."""
        if step in self.manager.all_steps():
            return
        arrays = dict(zip(_names(carry), map(jnp.copy, jax.tree.leaves(carry)), strict=True))
        args = ocp.args.Composite(carry=ocp.args.StandardSave(arrays), record=ocp.args.JsonSave(record))
        self.manager.save(step, args=args)

    def close(self) -> None:
        """Waits until all checkpoints are written."""
        self.manager.close()


def _names(carry: Carry) -> list[str]:
    return jax.tree.leaves(tree.names(carry))
