"""What tells the weights of two models apart, for suites that keep what a model of some name has made of a sound."""

import hashlib

import equinox as eqx
import jax
import numpy as np

from ._pretrained import Pretrained


def fingerprint(clip: Pretrained) -> str:
    """Eight letters that depend on every number of the model and on how recordings are cut for it."""
    digest = hashlib.sha256(f"{clip.entry.frontend} {clip.entry.network} {clip.entry.window}".encode())
    for leaf in jax.tree.leaves(eqx.filter((clip.model, clip.state), eqx.is_array)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:8]


def parameters(clip: Pretrained) -> int:
    """How many numbers a model has, without its running statistics."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(clip.model, eqx.is_array)))
