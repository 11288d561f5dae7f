"""Transformers with random weights that are large enough for every branch to count."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from arrays import KEY

from audax_eqx.networks import AST

SMALL = {"bins": 24, "frames": 40, "patch": 8, "stride": (6, 5)}  # 6 x 4 patches


def ast(width=16, depth=1, heads=2, **options):
    """A small network, with random weights that are large enough for every branch to count, and its state."""
    build = functools.partial(AST, width, depth, heads, **SMALL | options)
    network, state = eqx.filter_eval_shape(eqx.nn.make_with_state(build), key=KEY)
    return randomise(network), state


def randomise(tree):
    generator = np.random.default_rng(0)

    def fill(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(0.3 * generator.standard_normal(leaf.shape) + (leaf.ndim == 1), jnp.float32)

    return jax.tree.map(fill, tree)


@eqx.filter_jit
def run(network, state, x, key=None):
    """The feature map and the embedding; compiled together, because XLA shares what they have in common."""
    return network.features(x, state, key=key)[0], network(x, state, key=key)[0]


def narrow(network):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_array(leaf) else leaf, network)
