"""BatchNorm against torch's numbers, over nested axes and over devices."""

import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import apply_batch, batch_norm, error, noise


@functools.cache
def torch_steps():
    with np.load(pathlib.Path(__file__).parent / "golden" / "batch_norm.npz") as arrays:
        return dict(arrays)


@eqx.filter_jit
def differentiate(parameters, state, x, probe):
    """The sum of the output times `probe`; with it the output, the state and the gradients."""

    def loss(parameters):
        norm, x = parameters
        y, state_after = apply_batch(norm, state, x)
        return jnp.sum(y * probe), (y, state_after)

    return eqx.filter_value_and_grad(loss, has_aux=True)(parameters)


def test_batch_norm_trains_as_torch_does():
    golden = torch_steps()
    norm, state = batch_norm(5)
    for step in range(20):
        x, probe = jnp.asarray(golden[f"x_{step}"]), jnp.asarray(golden[f"probe_{step}"])
        (_, (y, state)), (slope, gradient) = differentiate((norm, x), state, x, probe)
        assert error(y, golden[f"output_{step}"]) < 1e-5
        np.testing.assert_allclose(gradient, golden[f"gradient_{step}"], rtol=1e-4, atol=1e-4)
        norm = eqx.apply_updates(norm, jax.tree.map(lambda leaf: -0.01 * leaf, slope))
        assert error(norm.weight, golden[f"weight_{step}"]) < 1e-5
        assert error(norm.bias, golden[f"bias_{step}"]) < 1e-4
        assert error(state.get(norm.running_mean), golden[f"mean_{step}"]) < 1e-5
        assert error(state.get(norm.running_var), golden[f"var_{step}"]) < 1e-5
    inference = eqx.nn.inference_mode(norm)
    for index, x in enumerate(golden["x_0"]):
        y, same = inference(jnp.asarray(x), state)
        assert error(y, golden["inference"][index]) < 1e-4
    np.testing.assert_array_equal(same.get(norm.running_mean), state.get(norm.running_mean))
    np.testing.assert_array_equal(same.get(norm.running_var), state.get(norm.running_var))


def test_batch_norm_in_inference_mode_uses_the_running_statistics():
    norm, state = batch_norm(3, eps=0.5)
    state = state.set(norm.running_mean, jnp.array([1.0, 2.0, 3.0])).set(norm.running_var, jnp.array([0.5, 3.5, 8.5]))
    norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (jnp.array([1.0, -2.0, 3.0]), jnp.array([0.0, 1.0, 2.0])))
    y, _ = eqx.nn.inference_mode(norm)(jnp.array([[2.0, 4.0, 6.0], [1.0, 2.0, 3.0]]), state)
    np.testing.assert_allclose(y, [[1.0, -1.0, 5.0], [0.0, 1.0, 2.0]], rtol=1e-6)


def test_batch_norm_moves_its_statistics_by_its_momentum():
    norm, state = batch_norm(1, momentum=0.25)
    _, state = apply_batch(norm, state, jnp.array([[2.0], [6.0]]))
    np.testing.assert_allclose(state.get(norm.running_mean), [0.25 * 4], rtol=1e-6)
    np.testing.assert_allclose(state.get(norm.running_var), [0.75 + 0.25 * 8], rtol=1e-6)  # unbiased: 16 / 2 values


def test_batch_norm_keeps_the_digits_of_small_deviations_from_a_large_mean():
    norm, state = batch_norm(1, momentum=1.0)
    x = jnp.array([[1000.0], [1000.5], [1001.0], [1001.5]])
    y, state = apply_batch(norm, state, x)
    np.testing.assert_allclose(y, (np.asarray(x) - 1000.75) / np.sqrt(0.3125 + 1e-5), rtol=1e-4)
    np.testing.assert_allclose(state.get(norm.running_var), [0.3125 * 4 / 3], rtol=1e-5)


def test_batch_norm_of_nested_axes_equals_one_batch():
    x = jnp.asarray(noise(8, 5, 3, 4) * 2 + 1)
    norm, state = batch_norm(4)
    y, state_after = apply_batch(norm, state, x)
    nested, nested_state = batch_norm(4, axis_name=("outer", "inner"))
    inner = jax.vmap(nested, (0, None), (0, None), axis_name="inner")
    outer = jax.vmap(inner, (0, None), (0, None), axis_name="outer")
    split, split_state = jax.jit(outer)(x.reshape(2, 4, 5, 3, 4), nested_state)
    assert error(split.reshape(x.shape), y) < 1e-6
    for index in ("running_mean", "running_var"):
        assert error(split_state.get(getattr(nested, index)), state_after.get(getattr(norm, index))) < 1e-6


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_batch_norm_over_devices_equals_one_batch(devices):
    x = jnp.asarray(noise(8, 5, 4) * 2 + 1)
    norm, state = batch_norm(4)
    y, state_after = apply_batch(norm, state, x)
    sharded, sharded_state = batch_norm(4, axis_name=("data", "batch"))
    mesh = jax.make_mesh((devices,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])
    data, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    run = jax.shard_map(
        lambda x, state: apply_batch(sharded, state, x),
        mesh=mesh,
        in_specs=(data, whole),
        out_specs=(data, whole),
        check_vma=False,
    )
    out, out_state = jax.jit(run)(x, sharded_state)
    assert error(out, y) < 1e-6
    for index in ("running_mean", "running_var"):
        assert error(out_state.get(getattr(sharded, index)), state_after.get(getattr(norm, index))) < 1e-6


def test_batch_norm_of_bfloat16_has_float32_statistics():
    norm, state = batch_norm(4)
    x = jnp.asarray(noise(8, 5, 4) + 20).astype(jnp.bfloat16)
    narrow = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (jnp.ones(4, jnp.bfloat16), jnp.zeros(4, jnp.bfloat16)))
    y, state_after = apply_batch(narrow, state, x)
    wide, wide_state = apply_batch(norm, state, x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))
    for index in (norm.running_mean, norm.running_var):
        assert state_after.get(index).dtype == jnp.float32
        np.testing.assert_array_equal(state_after.get(index), wide_state.get(index))
    assert eqx.nn.inference_mode(norm)(x[0], state)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("axis_name", ["batch", ("data", "batch")])
def test_batch_norm_trains_inside_of_its_axis_only(axis_name):
    norm, state = batch_norm(4, axis_name=axis_name)
    with pytest.raises(RuntimeError, match=r"axis named .*'batch'.* found none: .* or use eqx\.nn\.inference_mode"):
        norm(jnp.ones((5, 4)), state)
    with pytest.raises(RuntimeError, match="found none"):
        apply_batch(norm, state, jnp.ones((2, 5, 4)), axis_name="other")


def test_batch_norm_has_two_parameters_and_its_statistics_in_the_state():
    norm, state = batch_norm(4)
    assert [leaf.shape for leaf in jax.tree.leaves(eqx.filter(norm, eqx.is_array))] == [(4,), (4,)]
    np.testing.assert_array_equal(state.get(norm.running_mean), np.zeros(4))
    np.testing.assert_array_equal(state.get(norm.running_var), np.ones(4))


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_batch_norm_starts_at_its_scale(scale):
    x = jnp.asarray(noise(8, 5, 3) * 2 + 1)
    norm, state = batch_norm(3, scale=scale)
    np.testing.assert_array_equal(norm.weight, np.full(3, scale))
    plain, plain_state = batch_norm(3)
    expected = apply_batch(plain, plain_state, x)[0]
    assert np.std(expected) > 0.9
    np.testing.assert_allclose(apply_batch(norm, state, x)[0], scale * expected, atol=1e-6)
