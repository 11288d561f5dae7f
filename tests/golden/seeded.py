"""Weights that are a function of their name and shape alone, so that golden files need not hold them.

The scripts of this folder put them into the reference's model, under our names and in our layouts; the tests put them
into ours. jax is imported where it is used: the scripts run without it.
"""

import math
import zlib

import numpy as np


def uniform(name, shape):
    """Numbers in [-1, 1), from PCG64's raw bits: a stream that NumPy promises not to change."""
    bits = np.random.PCG64(zlib.crc32(f"{name} {tuple(shape)}".encode())).random_raw(math.prod(shape))
    return (2.0**-52 * (bits >> np.uint64(11)) - 1.0).reshape(shape)


def values(name, shape):
    """Values for the leaf of that name, of a size with which activations stay near 1."""
    noise = uniform(name, shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        noise = 2.0**noise
    elif leaf in ("running_mean", "bias"):
        noise = 0.3 * noise
    elif leaf == "layer_scale":
        noise = 0.5 + 0.3 * noise
    elif leaf.endswith(("token", "embedding")):
        noise = 0.5 * noise
    elif len(shape) == 1:
        noise = 1.0 + 0.5 * noise
    else:  # a kernel, height width inputs outputs, or a dense layer's outputs inputs
        fan_in = math.prod(shape[:-1]) if len(shape) == 4 else shape[1]
        noise = math.sqrt(3 * 1.5 / fan_in) * noise
    return noise.astype(np.float32)


def fill(build):
    """The network and the State of `build(key=...)`, every parameter and running statistic seeded."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from audax_eqx import tree

    def array(name, leaf):
        return jnp.asarray(values(name, leaf.shape))

    def parameter(leaf, name):
        return array(name, leaf) if hasattr(leaf, "shape") else leaf

    def is_index(leaf):
        return isinstance(leaf, eqx.nn.StateIndex)

    network, state = eqx.filter_eval_shape(eqx.nn.make_with_state(build), key=jax.random.key(0))
    names = jax.tree.leaves(tree.names(network, is_leaf=is_index))
    for name, index in zip(names, jax.tree.leaves(network, is_leaf=is_index), strict=True):
        if is_index(index):
            state = state.set(index, array(name, state.get(index)))
    return jax.tree.map(parameter, network, tree.names(network)), state
