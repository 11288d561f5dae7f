"""Random arrays, and the error of one relative to another: what the tests of networks and frontends compare with."""

import jax
import jax.numpy as jnp
import numpy as np

KEY = jax.random.key(0)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()
