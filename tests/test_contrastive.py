"""Contrastive models: embeddings, projections and similarities, and the classifiers that are made of them."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from test_classifier import KEY, noise
from tiny import fill_entry

import zoo
from audax_eqx.frontends import LogMel
from audax_eqx.layers import Linear
from audax_eqx.models import COLA, Classifier, SimCLR
from audax_eqx.networks import ConvNeXt
from zoo._leaves import named_leaves

COLA_BILINEAR = {"type": "COLA", "width": 6}
COLA_DOT = {"type": "COLA", "width": 6, "similarity": "dot", "temperature": 0.5}
SIMCLR_MLP = {"type": "SimCLR", "width": 6}
SIMCLR_LINEAR = {"type": "SimCLR", "width": 6, "linear": True, "temperature": 0.5}
DESCRIPTIONS = {
    "cola bilinear": COLA_BILINEAR,
    "cola dot": COLA_DOT,
    "simclr": SIMCLR_MLP,
    "simclr linear": SIMCLR_LINEAR,
}
contrastive = pytest.mark.parametrize("kind", DESCRIPTIONS)


def entry(description):
    return zoo.Entry(
        name="contrastive",
        frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 128},
        network={"type": "ConvNeXt", "depths": (0, 0), "widths": (4, 8), "input_norm": 16},
        model=description,
        classes=0,
        task="contrastive",
        window=0.5,
    )


@functools.cache
def pretrained(kind):
    """With seeded weights, in inference mode."""

    def draw(generator, name, shape):
        return np.full(shape, 4.0) if name.endswith("running_var") else generator.normal(0.3, 0.5, shape)

    model, state = fill_entry(entry(DESCRIPTIONS[kind]), draw)
    return zoo.Pretrained(eqx.nn.inference_mode(model), state, entry(DESCRIPTIONS[kind]))


def rows(n, seed=0, width=6):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@contrastive
def test_a_contrastive_model_embeds_by_its_network_and_projects_that(kind):
    clip, wave = pretrained(kind), np.asarray(noise(2000))
    model, embedding, projection = clip.model, clip.embed(wave), clip(wave)
    assert embedding.shape == (8,) and projection.shape == (6,)

    @eqx.filter_jit
    def outputs(clip, wave):
        x = clip.model.listen(wave)
        return clip.model.network(x, clip.state)[0], clip.model.project(x, clip.state)[0]

    network_embedding, network_projection = outputs(clip, jnp.asarray(wave))
    np.testing.assert_allclose(embedding, network_embedding, rtol=1e-5)
    np.testing.assert_allclose(projection, network_projection, rtol=1e-5, atol=1e-6)
    h = np.asarray(embedding, np.float64)
    if kind == "simclr":
        expand, contract = model.projection.expand, model.projection.contract
        assert contract.bias is None and expand.weight.shape == (8, 8) and contract.weight.shape == (6, 8)
        h = np.maximum(np.asarray(expand.weight) @ h + np.asarray(expand.bias), 0)
        assert (h == 0).any() and (h > 0).any()
        expected = np.asarray(contract.weight) @ h
    else:
        assert isinstance(model.projection, Linear) and model.projection.bias is None
        expected = np.asarray(model.projection.weight) @ h
    np.testing.assert_allclose(projection, expected, rtol=1e-4, atol=1e-5)

    assert clip.labels == ()


def test_a_contrastive_model_has_frames():
    clip, wave = pretrained("cola bilinear"), np.asarray(noise(2000))
    frames = np.asarray(clip.frames(wave))
    assert frames.shape == (2, 8)  # 16 frames, 8 a step
    norm = clip.model.network.norm
    pooled = frames.mean(axis=0)
    pooled = (pooled - pooled.mean()) / np.sqrt(pooled.var() + 1e-6)
    np.testing.assert_allclose(clip.embed(wave), pooled * norm.weight + norm.bias, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.diff(clip.frame_times(2)), 8 * 128 / 8000, rtol=1e-6)


def test_the_bilinear_similarity_is_its_closed_form():
    model = pretrained("cola bilinear").model
    anchors, positives = rows(3), rows(2, seed=1)

    def squash(x):
        x = np.asarray(x, np.float64)
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)
        return np.tanh(x * np.asarray(model.norm.weight) + np.asarray(model.norm.bias))

    expected = squash(anchors) @ np.asarray(model.bilinear, np.float64) @ squash(positives).T
    for array in (np.asarray, jnp.asarray):
        similarity = model.similarity(array(anchors), array(positives))
        assert similarity.shape == (3, 2) and similarity.dtype == jnp.float32
        np.testing.assert_allclose(similarity, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - squash(positives[:1]) @ np.asarray(model.bilinear)[:, :1]).max() > 0.1


@pytest.mark.parametrize("kind, temperature", [("cola dot", 0.5), ("simclr", 0.1), ("simclr linear", 0.5)])
def test_other_similarities_are_cosines_over_the_temperature(kind, temperature):
    model = pretrained(kind).model
    assert model.temperature == temperature
    a, b = 7 * rows(3), 0.01 * rows(2, seed=1)
    for array in (np.asarray, jnp.asarray):
        similarity = model.similarity(array(a), array(b))
        assert similarity.shape == (3, 2) and similarity.dtype == jnp.float32
        np.testing.assert_allclose(similarity, unit(a) @ unit(b).T / temperature, rtol=1e-4, atol=1e-5)
    similarity = np.asarray(model.similarity(a, a))
    np.testing.assert_allclose(np.diag(similarity), 1 / temperature, rtol=1e-5)
    np.testing.assert_allclose(similarity, similarity.T, atol=1e-5)


@contrastive
def test_rows_of_zeros_give_finite_similarities_and_gradients(kind):
    model = pretrained(kind).model
    a, b = jnp.zeros((2, 6)), jnp.asarray(rows(3))
    similarity = model.similarity(a, b)
    assert np.isfinite(similarity).all()
    if kind != "cola bilinear":
        np.testing.assert_array_equal(similarity, np.zeros((2, 3)))
    gradient = jax.grad(lambda a: jnp.sum(model.similarity(a, b)))(a)
    assert np.isfinite(gradient).all()


def test_rows_of_another_width_are_named():
    with pytest.raises(jaxtyping.TypeCheckError, match="anchors"):
        pretrained("cola dot").model.similarity(rows(2, width=5), rows(2))


@pytest.mark.parametrize("make", [COLA, SimCLR])
@pytest.mark.parametrize("temperature", [0.0, -0.1])
def test_a_temperature_is_positive(make, temperature):
    with pytest.raises(
        ValueError, match=rf"{make.__name__} divides cosines by its temperature, .* > 0: got {temperature}"
    ):
        eqx.nn.make_with_state(make)(
            LogMel(8000, bins=16), ConvNeXt((0,), (4,), key=KEY), temperature=temperature, key=KEY
        )


@contrastive
def test_gradients_of_a_contrastive_loss_are_finite_at_silence_and_reach_every_parameter(kind):
    model, state = pretrained(kind).thaw(key=KEY)
    waves = jnp.stack([noise(2000), jnp.zeros(2000), jnp.ones(2000)])

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model, waves):
        run = jax.vmap(model, (0, None), (0, None), axis_name="batch")
        z, _ = run(waves, state)
        logits = model.similarity(z, jnp.roll(z, 1, axis=0))
        return -jnp.mean(jnp.diag(jax.nn.log_softmax(logits)))

    for batch in (waves, jnp.zeros((3, 2000))):
        slopes = {
            name: np.asarray(leaf)
            for name, leaf in named_leaves(eqx.filter(gradient(model, batch), eqx.is_array), state).items()
        }
        assert all(np.isfinite(leaf).all() for leaf in slopes.values())
        if batch is waves:
            for name, leaf in slopes.items():
                if "running" not in name:
                    assert np.abs(leaf).max() > 0, name


@pytest.mark.parametrize("kind", ["cola bilinear", "simclr"])
def test_a_contrastive_model_computes_in_bfloat16_when_its_parameters_are(kind):
    clip, wave = pretrained(kind), np.asarray(noise(2000))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), eqx.filter(clip.model, eqx.is_array))
    half = eqx.combine(half, eqx.filter(clip.model, eqx.is_array, inverse=True))
    cast = eqx.tree_at(lambda each: each.model, clip, half)
    assert cast.embed(wave).dtype == jnp.bfloat16
    z = cast(wave)
    assert z.dtype == jnp.float32
    assert 0 < np.abs(z - clip(wave)).max() / np.abs(clip(wave)).max() < 5e-2
    ours, theirs = (each.model.similarity(rows(3), rows(2, seed=1)) for each in (cast, clip))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, atol=0.05 * np.abs(theirs).max())


@contrastive
def test_a_contrastive_model_saves_and_loads_bit_by_bit(tmp_path, kind):
    clip = pretrained(kind)
    zoo.save(tmp_path / "saved", clip.model, clip.state, clip.entry)
    other = zoo.load(tmp_path / "saved")
    assert other.entry == clip.entry
    assert (other.entry.classes, other.entry.task) == (0, "contrastive")
    assert type(other.model) is type(clip.model)
    assert other.model.temperature == clip.model.temperature
    ours, theirs = named_leaves(other.model, other.state), named_leaves(clip.model, clip.state)
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)
    assert eqx.tree_equal(jax.tree.structure(other.model), jax.tree.structure(clip.model))


@pytest.mark.parametrize(
    "kind, other", [("cola bilinear", "cola dot"), ("cola dot", "cola bilinear"), ("simclr", "simclr linear")]
)
def test_a_contrastive_model_is_not_saved_as_another(tmp_path, kind, other):
    clip = pretrained(kind)
    with pytest.raises(ValueError, match="does not fit the model"):
        zoo.save(tmp_path / "saved", clip.model, clip.state, entry(DESCRIPTIONS[other]))
    assert not (tmp_path / "saved").exists()


def test_a_contrastive_model_names_no_sounds():
    clip, wave = pretrained("cola dot"), np.asarray(noise(2000))
    for method in (clip.top, clip.probabilities):
        with pytest.raises(ValueError, match=r"contrastive has no classes and names no sounds: use embed"):
            method(wave)


def test_thaw_keeps_a_contrastive_model():
    clip = pretrained("cola bilinear")
    model, state = clip.thaw(key=KEY)
    assert isinstance(model, COLA)
    ours, theirs = named_leaves(model, state), named_leaves(clip.model, clip.state)
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)
    assert not model.network.input_norm.inference and clip.model.network.input_norm.inference


@pytest.mark.parametrize("kind", ["cola bilinear", "simclr"])
def test_thaw_with_classes_makes_a_classifier_on_the_same_network_that_trains_and_saves(tmp_path, kind):
    clip = pretrained(kind)
    model, state = clip.thaw(classes=3, key=KEY)
    assert isinstance(model, Classifier) and model.classes == 3
    ours, theirs = named_leaves(model, state), named_leaves(clip.model, clip.state)
    shared = {name for name in ours if name.startswith(("network.", "frontend."))}
    assert ours.keys() - shared == {"head.weight", "head.bias"}
    for name in shared:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)

    @eqx.filter_jit
    def step(model, state):
        def loss(model):
            run = jax.vmap(model, (0, None), (0, None), axis_name="batch")
            logits, new_state = run(noise(4, 2000), state)
            return -jnp.mean(jax.nn.log_softmax(logits)[:, 0]), new_state

        (value, new_state), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        return value, eqx.apply_updates(model, jax.tree.map(lambda leaf: -0.05 * leaf, gradient)), new_state

    first, model, state = step(model, state)
    second, model, state = step(model, state)
    assert float(second) < float(first)
    mine = dataclasses.replace(
        clip.entry, name="mine", model={"type": "Classifier"}, classes=3, task="multiclass", labels=("x", "y", "z")
    )
    zoo.save(tmp_path / "mine", model, state, mine)
    other = zoo.load(tmp_path / "mine")
    assert other.entry == mine
    assert {label for label, _ in other.top(np.asarray(noise(2000)))} == {"x", "y", "z"}
    np.testing.assert_array_equal(other.model.head.weight, model.head.weight)
    with pytest.raises(ValueError, match="does not fit the model"):
        zoo.save(tmp_path / "wrong", model, state, clip.entry)
