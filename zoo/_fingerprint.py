"""Hashes that tell models apart, for suites that store the outputs of a model under the model's name."""

import hashlib

import equinox as eqx
import jax
import numpy as np

from ._pretrained import Pretrained


def fingerprint(clip: Pretrained) -> str:
    """Eight letters that depend on every number of the model, on its entry's options and on its window."""
    digest = hashlib.sha256(f"{clip.entry.frontend} {clip.entry.network} {clip.entry.window}".encode())
    for leaf in jax.tree.leaves(eqx.filter((clip.model, clip.state), eqx.is_array)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:8]


def parameters(clip: Pretrained) -> int:
    """The number of parameters of a model, without its running statistics."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(clip.model, eqx.is_array)))
