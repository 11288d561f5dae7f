"""The head of prototypes: its equation, its gradients, its lengths, and what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_perch import KEY, SEVEN, error, uniform

from audax_eqx.frontends import PerchLogMel
from audax_eqx.layers import Prototypes
from audax_eqx.models import Classifier
from audax_eqx.networks import EfficientNet


def test_prototypes_are_their_equation_and_hear_the_first_steps_alone():
    head = Prototypes(6, 4, 2, key=KEY)
    x = uniform("map", (5, 3, 6)).astype(np.float32)
    x[0, 0] = 0.0
    scale = uniform("scale", (4, 2)).astype(np.float32)
    head = eqx.tree_at(lambda head: head.scale, head, jnp.asarray(scale))
    weight = np.asarray(head.weight)
    unit = [each / (np.linalg.norm(each, axis=-1, keepdims=True) + 1e-5) for each in (x, weight)]
    cosines = np.einsum("tfd,cpd->tfcp", *unit)
    expected = np.sum(np.maximum(scale, 0) * cosines.max(axis=(0, 1)), axis=-1) - 2
    assert error(head(jnp.asarray(x)), expected) < 1e-6
    loud = jnp.asarray(x).at[3:].set(weight[0, 0])
    assert error(head(loud, length=3), head(jnp.asarray(x[:3]))) < 1e-6
    assert error(head(loud), head(jnp.asarray(x[:3]))) > 1e-2


def test_prototypes_have_gradients_and_compute_in_bfloat16():
    head = Prototypes(6, 4, 2, key=KEY)
    x = jnp.asarray(uniform("map", (5, 3, 6)), jnp.float32)
    gradients = jax.grad(lambda head: jnp.sum(head(x.at[0].set(0.0))))(head)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    small = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), head)
    logits = small(x.astype(jnp.bfloat16))
    assert logits.dtype == jnp.float32 and error(logits, head(x)) < 2e-2


def test_prototypes_and_parts_of_an_embedding_are_refused():
    network = EfficientNet(**SEVEN, key=KEY)
    for options in ({"cosine": 30.0}, {"projection": 4}, {"hidden": (4,)}, {"norm": 1e-5}):
        with pytest.raises(ValueError, match="reads the feature map: leave norm, projection, hidden and cosine out"):
            Classifier(PerchLogMel(), network, 3, prototypes=2, **options, key=KEY)
    with pytest.raises(ValueError, match="at least 1 prototype"):
        Prototypes(4, 3, 0, key=KEY)
