"""Linear, LayerNorm, SqueezeExcite and DropPath against closed forms, and the shapes that layers refuse."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from layers import KEY, apply_batch, batch_norm, error, noise, with_bias

from audax_eqx.layers import Conv, Depthwise, DropPath, LayerNorm, Linear, Patchify, SqueezeExcite, pointwise

# Linear and LayerNorm -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leading", [(), (3,), (2, 0), (2, 3)])
def test_linear_is_an_affine_map_of_the_last_axis(leading):
    layer, x = with_bias(Linear(5, 4, key=KEY)), noise(*leading, 5)
    expected = x @ np.asarray(layer.weight).T + np.asarray(layer.bias)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_linear_starts_at_its_scale_and_a_zero_bias():
    layer = Linear(200, 300, scale=0.5, key=KEY)
    np.testing.assert_allclose(np.std(layer.weight), 0.5, rtol=0.02)
    assert not np.any(layer.bias)


def test_linear_without_bias_is_the_matrix():
    layer, x = Linear(5, 4, bias=False, key=KEY), noise(3, 5)
    assert layer.bias is None and len(jax.tree.leaves(layer)) == 1
    np.testing.assert_allclose(layer(jnp.asarray(x)), x @ np.asarray(layer.weight).T, rtol=1e-5, atol=1e-6)


def test_pointwise_starts_at_hes_scale_without_a_bias():
    layer = pointwise(300, 200, key=KEY)
    assert layer.bias is None and layer.weight.shape == (200, 300)
    np.testing.assert_allclose(np.std(layer.weight), 0.1, rtol=0.02)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_layer_norm_is_its_closed_form(leading):
    weight, bias, x = noise(6, seed=1), noise(6, seed=2), noise(*leading, 6) * 3 + 10
    layer = eqx.tree_at(lambda n: (n.weight, n.bias), LayerNorm(6, eps=0.1), (jnp.asarray(weight), jnp.asarray(bias)))
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        layer(jnp.asarray(x)), (x - mean) / np.sqrt(variance + 0.1) * weight + bias, rtol=1e-4, atol=1e-5
    )


def test_layer_norm_keeps_the_digits_of_small_deviations_from_a_large_mean():
    x = np.float32([[1000.0, 1000.5, 1001.0, 1001.5]])
    expected = (x - 1000.75) / np.sqrt(0.3125 + 1e-6)
    np.testing.assert_allclose(LayerNorm(4)(jnp.asarray(x)), expected, rtol=1e-4)


def test_layer_norm_of_bfloat16_has_float32_statistics():
    layer = LayerNorm(64)
    x = jnp.asarray(noise(5, 64) + 20).astype(jnp.bfloat16)
    y = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), layer)(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, layer(x.astype(jnp.float32)).astype(jnp.bfloat16))


# SqueezeExcite --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_squeeze_excite_is_its_closed_form(bias):
    layer, x = SqueezeExcite(6, 2, bias=bias, key=KEY), noise(5, 3, 6) + 1
    if bias:
        assert not np.any(layer.reduce.bias) and not np.any(layer.expand.bias)
        layer = eqx.tree_at(lambda n: (n.reduce, n.expand), layer, (with_bias(layer.reduce), with_bias(layer.expand)))
    assert len(jax.tree.leaves(layer)) == (4 if bias else 2)
    squeezed = np.asarray(layer.reduce.weight) @ x.mean(axis=(0, 1)) + (np.asarray(layer.reduce.bias) if bias else 0)
    squeezed = squeezed / (1 + np.exp(-squeezed))
    gate = np.asarray(layer.expand.weight) @ squeezed + (np.asarray(layer.expand.bias) if bias else 0)
    assert error(layer(jnp.asarray(x)), x / (1 + np.exp(-gate))) < 1e-5


def test_squeeze_excite_of_bfloat16_has_a_float32_mean():
    layer = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), SqueezeExcite(4, 2, key=KEY))
    x = jnp.asarray(noise(3000, 4, 4) + 3).astype(jnp.bfloat16)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer)(x.astype(jnp.float32))
    y = layer(x)
    assert y.dtype == jnp.bfloat16
    assert error(y.astype(jnp.float32), wide) < 2e-2


# DropPath -------------------------------------------------------------------------------------------------------------


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    count, rate, x = 4000, 0.3, jnp.asarray(noise(3, 2))
    y = np.asarray(jax.vmap(lambda key: DropPath(rate)(x, key=key))(jax.random.split(KEY, count)))
    survivors = np.any(y != 0, axis=(1, 2))
    np.testing.assert_allclose(y[survivors], np.broadcast_to(x / 0.7, (survivors.sum(), 3, 2)), rtol=1e-6)
    deviation = math.sqrt(rate * (1 - rate) / count)
    assert abs(survivors.mean() - 0.7) < 4 * deviation
    np.testing.assert_allclose(y.mean(axis=0), x, rtol=4 * deviation / 0.7)


def test_drop_path_leaves_inference_and_rate_zero_untouched():
    x = jnp.asarray(noise(3, 2))
    np.testing.assert_array_equal(eqx.nn.inference_mode(DropPath(0.9))(x), x)
    np.testing.assert_array_equal(DropPath(0.9, inference=True)(x, key=KEY), x)
    np.testing.assert_array_equal(DropPath()(x), x)


def test_drop_path_trains_with_a_key_only():
    with pytest.raises(RuntimeError, match=r"pass key=.* or use eqx\.nn\.inference_mode"):
        DropPath(0.5)(jnp.ones(3))


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_drop_path_takes_a_rate_below_one(rate):
    with pytest.raises(ValueError, match=rf"a rate in \[0, 1\), got {rate}"):
        DropPath(rate)


def test_drop_path_keeps_bfloat16():
    x = jnp.ones(3, jnp.bfloat16)
    assert DropPath(0.5)(x, key=KEY).dtype == jnp.bfloat16


# Bad inputs -----------------------------------------------------------------------------------------------------------

WRONG = {
    "Linear": (lambda: Linear(3, 2, key=KEY)(jnp.ones((4, 5))), r"f32\[4,5\][\s\S]*'\*leading \{self\.inputs\}'"),
    "LayerNorm": (lambda: LayerNorm(3)(jnp.ones((4, 5))), r"f32\[4,5\][\s\S]*'\*leading \{self\.channels\}'"),
    "Patchify": (
        lambda: Patchify(3, 2, (2, 2), key=KEY)(jnp.ones((4, 5, 2))),
        r"f32\[4,5,2\][\s\S]*'time freq \{self\.inputs\}'",
    ),
    "Depthwise": (
        lambda: Depthwise(3, (3, 3), key=KEY)(jnp.ones((4, 5, 2))),
        r"f32\[4,5,2\][\s\S]*'time freq \{self\.channels\}'",
    ),
    "Depthwise without freq": (
        lambda: Depthwise(3, (3, 3), key=KEY)(jnp.ones((4, 3))),
        r"f32\[4,3\][\s\S]*'time freq \{self\.channels\}'",
    ),
    "Conv": (
        lambda: Conv(3, 2, (3, 3), key=KEY)(jnp.ones((4, 5, 2))),
        r"f32\[4,5,2\][\s\S]*'time freq \{self\.inputs\}'",
    ),
    "Conv of a padding without meaning": (
        lambda: Conv(3, 2, (3, 3), padding="full", key=KEY),
        r"parameter 'padding'[\s\S]*'full'",
    ),
    "Depthwise without padding": (
        lambda: Depthwise(3, (3, 3), padding="valid", key=KEY),
        r"parameter 'padding'[\s\S]*'valid'",
    ),
    "SqueezeExcite": (
        lambda: SqueezeExcite(3, 2, key=KEY)(jnp.ones((4, 5, 2))),
        r"f32\[4,5,2\][\s\S]*'time freq \{self\.channels\}'",
    ),
    "BatchNorm": (
        lambda: apply_batch(*batch_norm(3), jnp.ones((4, 5, 2))),
        r"f32\[5,2\][\s\S]*'\*leading \{self\.channels\}'",
    ),
    "DropPath of integers": (lambda: DropPath(0.5)(jnp.ones(3, jnp.int32), key=KEY), r"i32\[3\][\s\S]*Float"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(jaxtyping.TypeCheckError, match=message):
        call()
