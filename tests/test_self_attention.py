"""Attention and attention with its maps stacked against closed forms and JAX's own."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import KEY, error, noise
from transformer import randomise

from audax_eqx.layers import Attention, FusedAttention
from audax_eqx.layers import attention as attention_module


@pytest.mark.parametrize(("width", "heads"), [(16, 1), (16, 4), (15, 3), (6, 6), (64, 2)])
def test_attention_is_its_closed_form(width, heads):
    attention = randomise(eqx.filter_eval_shape(Attention, width, heads, key=KEY))
    x = noise(9, width)
    wide = {
        name: np.asarray(x, np.float64) @ np.asarray(getattr(attention, name).weight, np.float64).T
        + np.asarray(getattr(attention, name).bias, np.float64)
        for name in ("query", "key", "value")
    }
    query, key, value = (wide[name].reshape(9, heads, -1) for name in ("query", "key", "value"))
    scores = np.exp(np.einsum("qhc,khc->hqk", query, key) / np.sqrt(width // heads))
    y = np.einsum("hqk,khc->qhc", scores / scores.sum(axis=-1, keepdims=True), value).reshape(9, width)
    expected = y @ np.asarray(attention.output.weight, np.float64).T + np.asarray(attention.output.bias, np.float64)
    assert error(eqx.filter_jit(attention)(x), expected) < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)])
def test_attention_and_its_gradients_are_jaxs(dtype, tolerance):
    arguments = [noise(33, 4, 8, seed=seed).astype(dtype) for seed in range(3)]
    probe = noise(33, 4, 8, seed=3)

    @jax.jit
    def outcomes(*arguments):
        def outcome(attend, *arguments):
            y, pullback = jax.vjp(attend, *arguments)
            return y, *pullback(probe.astype(y.dtype))

        paths = attention_module._by_heads, attention_module._at_once  # on CPU, and elsewhere
        wide = [x.astype(jnp.float32) for x in arguments]
        return outcome(jax.nn.dot_product_attention, *wide), [outcome(path, *arguments) for path in paths]

    reference, ours = outcomes(*arguments)
    for outcome in ours:
        for x, expected in zip(outcome, reference, strict=True):
            assert x.dtype == dtype
            assert error(x, expected) < tolerance


@pytest.mark.parametrize("bias", [True, False])
def test_fused_attention_is_attention_with_its_maps_stacked(bias):
    attention, fused = (
        randomise(eqx.filter_eval_shape(kind, 12, 3, bias=bias, key=KEY)) for kind in (Attention, FusedAttention)
    )
    parts = (jax.tree.leaves(linear) for linear in (attention.query, attention.key, attention.value))
    stacked = [jnp.concatenate(leaves) for leaves in zip(*parts, strict=True)]
    fused = eqx.tree_at(lambda tree: jax.tree.leaves(tree.qkv), fused, stacked)
    fused = eqx.tree_at(lambda tree: tree.output, fused, attention.output)
    x = noise(9, 12)
    assert error(eqx.filter_jit(fused)(x), eqx.filter_jit(attention)(x)) < 1e-5
    assert fused.output.bias is not None and (fused.qkv.bias is not None) == bias


def test_attention_survives_large_scores():
    attention = jax.tree.map(lambda leaf: 1e3 * leaf, randomise(eqx.filter_eval_shape(Attention, 16, 2, key=KEY)))
    x = 1e3 * noise(9, 16)  # scores of 1e12
    assert np.all(np.isfinite(eqx.filter_jit(attention)(x)))


def test_qkv_bias_is_of_query_key_and_value_only():
    attention = eqx.filter_eval_shape(Attention, 8, 2, bias=False, key=KEY)
    assert attention.query.bias is None and attention.key.bias is None and attention.value.bias is None
    assert attention.output.bias is not None
    assert eqx.filter_eval_shape(attention, noise(5, 8)).shape == (5, 8)
