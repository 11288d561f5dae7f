"""The recipes by name, and the models that they build."""

import functools

import jax

from train import recipe
from zoo._create import skeleton

NAMES = recipe.names()
LABELS = tuple(f"label {index}" for index in range(35))


OURS = {"voxceleb_ecapa", "esc10", "fsdd", "cola_small", "simclr_small", "linear_probe", "finetune"}  # not audax's


@functools.cache
def build(name):
    """The entry of the recipe's model and its skeleton."""
    entry = recipe.find(name)[0].entry(LABELS)
    return entry, skeleton(entry)[0]


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape"))
