"""Classifiers: the parts agree with the whole, and they learn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from audax_eqx.frontends import LogMel
from audax_eqx.models import Classifier
from audax_eqx.networks import ConvNeXt

KEY = jax.random.key(0)


def build(key, dropout=0.0, **options):
    frontend = LogMel(8000, bins=16, n_fft=256, hop_length=128, log="natural", floor=1e-5)
    network = ConvNeXt((0, 1), (4, 8), input_norm=16, layer_scale=0.5, key=key, **options)
    return Classifier(frontend, network, 3, dropout=dropout, key=key)


def classifier(**options):
    return eqx.nn.make_with_state(build)(KEY, **options)


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))


def test_embed_classify_and_call_agree():
    model, state = classifier(dropout=0.5)
    model, wave = eqx.nn.inference_mode(model), noise(4000)
    x = eqx.filter_jit(model.frontend)(wave)

    @eqx.filter_jit
    def outputs(model):
        return (
            model.embed(wave, state)[0],
            model.network(x, state)[0],
            model(wave, state)[0],
            model.classify(x, state)[0],
        )

    embedding, network_embedding, logits, head_logits = outputs(model)
    assert embedding.shape == (8,) and logits.shape == (3,) and model.classes == 3
    np.testing.assert_allclose(embedding, network_embedding, rtol=1e-5)
    np.testing.assert_allclose(logits, head_logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits, model.head.weight @ embedding + model.head.bias, rtol=1e-4, atol=1e-6)


def test_the_head_fits_the_network():
    model, _ = classifier()
    assert model.head.weight.shape == (3, model.network.width) and model.head.bias.shape == (3,)


def test_dropout_trains_with_a_key_only():
    model, state = eqx.nn.make_with_state(build)(KEY, dropout=0.5)
    run = eqx.filter_jit(eqx.filter_vmap(model, in_axes=(0, None), out_axes=(0, None), axis_name="batch"))
    with pytest.raises(RuntimeError, match="Dropout requires a key"):
        run(noise(2, 2000), state)


def test_dropout_draws_anew_for_each_key_in_training_only():
    model, state = classifier(dropout=0.5)
    model = eqx.tree_at(lambda m: m.network.input_norm, model, None)
    wave, keys = noise(2000), jax.random.split(KEY, 8)
    for current, draws in ((model, 8), (eqx.nn.inference_mode(model), 1)):
        logits = eqx.filter_jit(jax.vmap(lambda key, m=current: m(wave, state, key=key)[0]))(keys)
        assert len(np.unique(logits, axis=0)) == draws


def test_a_wrong_shape_is_named():
    model, state = classifier()
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[2,4000\][\s\S]*'samples'"):
        model(noise(2, 4000), state)


def test_training_lowers_the_loss_and_moves_the_statistics():
    model, state = classifier(dropout=0.1, drop_path=0.1)
    generator = np.random.default_rng(0)
    classes = np.arange(12) % 3
    phase = generator.uniform(0, 2 * np.pi, 12)[:, None] + np.arange(2000)[None] * 2 * np.pi / 8000
    waves = np.sin(phase * np.array([300, 1000, 3000])[classes][:, None]) + 0.1 * generator.standard_normal((12, 2000))
    waves, targets = jnp.asarray(waves, jnp.float32), jnp.eye(3)[classes]

    @eqx.filter_jit
    def step(model, state, key):
        def loss(model):
            run = eqx.filter_vmap(
                lambda wave, state, key: model(wave, state, key=key),
                in_axes=(0, None, 0),
                out_axes=(0, None),
                axis_name="batch",
            )
            logits, new_state = run(waves, state, jax.random.split(key, 12))
            return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=1)), new_state

        (value, new_state), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        return eqx.apply_updates(model, jax.tree.map(lambda leaf: -0.3 * leaf, gradient)), new_state, value

    start, losses = state, []
    for key in jax.random.split(KEY, 40):
        model, state, loss = step(model, state, key)
        losses.append(float(loss))
    np.testing.assert_allclose(losses[0], np.log(3), atol=0.3)
    assert losses[-1] < 0.3 * losses[0]
    norm = model.network.input_norm
    features = eqx.filter_jit(eqx.filter_vmap(model.frontend))(waves)
    shift = np.abs(state.get(norm.running_mean) - features.mean(axis=(0, 1)))
    assert np.all(shift < 0.1 * np.abs(start.get(norm.running_mean) - features.mean(axis=(0, 1))))
    run = eqx.filter_jit(eqx.filter_vmap(eqx.nn.inference_mode(model), in_axes=(0, None), out_axes=(0, None)))
    np.testing.assert_array_equal(run(waves[:3], state)[0].argmax(axis=1), [0, 1, 2])


def test_the_norm_in_front_of_the_head_is_a_layer_norm_of_the_embedding():
    def build(key):
        return Classifier(LogMel(8000, bins=16), ConvNeXt((0,), (8,), key=key), 3, norm=0.1, key=key)

    model, state = eqx.nn.make_with_state(build)(KEY)
    weight, bias = jnp.linspace(0.5, 2, 8), jnp.linspace(-1, 1, 8)
    model = eqx.tree_at(lambda tree: (tree.norm.weight, tree.norm.bias), model, (weight, bias))
    x = noise(9, 16)
    embedding, logits = eqx.filter_jit(lambda model: (model.network(x, state)[0], model.classify(x, state)[0]))(model)
    y = np.asarray(embedding, np.float64)
    y = (y - y.mean()) / np.sqrt(y.var() + 0.1) * np.asarray(weight) + np.asarray(bias)
    np.testing.assert_allclose(logits, np.asarray(model.head.weight) @ y + np.asarray(model.head.bias), rtol=1e-4)
