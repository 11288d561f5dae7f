"""Objectives in closed form, on one device's share and over the global batch."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from scipy.special import logsumexp

import zoo
from audax_eqx.layers import Cosine
from audax_eqx.models.simclr import cosines
from train import recipe, step
from train.numbers import split
from train.objectives import Augment, Examples, Matching, NTXent, Supervised, _projections, counted, over_batch

FRONTEND = {"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 160, "floor": 1e-5}
NETWORK = {"type": "ConvNeXt", "depths": (1,), "widths": (8,), "layer_scale": 1.0}
COUNT, SAMPLES, CLASSES = 8, 1600, 3


class Echo(eqx.Module):
    """Gives back what it hears: 20 frames of 80 bins as a projection, the first samples as logits."""

    def listen(self, wave):
        return wave.reshape(20, 80)

    def project(self, x, state, *, key):
        return x.reshape(-1), state

    def classify(self, x, state, *, key):
        return x[0, :CLASSES], state

    def __call__(self, wave, state, *, key):
        return self.classify(self.listen(wave), state, key=key)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    waves = 0.3 * rng.normal(size=(COUNT, 2, SAMPLES)).astype(np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, COUNT)]
    return Examples(jnp.asarray(waves), jnp.full((COUNT, 2), SAMPLES, jnp.int32), jnp.asarray(targets))


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), COUNT)


def model(head, task):
    labels = tuple("abc") if task != "contrastive" else ()
    entry = zoo.Entry("tiny", FRONTEND, NETWORK, len(labels), task, 0.2, labels, model=head)
    return zoo.create(entry, key=jax.random.key(1))


@eqx.filter_jit
def outputs(model, state, waves):
    """One vector a wave, by the model alone."""
    return jax.lax.map(lambda wave: model(wave, state)[0], waves)


def call(objective, given, examples, keys, devices=1):
    """The objective's mean loss over the devices of a mesh, its numbers arguments of the program."""
    arrays, static = eqx.partition(given[0], eqx.is_array)
    numbers, choices = split(objective)

    def share(arrays, state, examples, keys, numbers):
        loss, _ = eqx.combine(numbers, choices)(eqx.combine(arrays, static), state, examples, keys)
        return jax.lax.pmean(loss, "data")

    shares = (P(), P(), P("data"), P("data"), P())
    mapped = jax.shard_map(share, mesh=step.mesh(devices), in_specs=shares, out_specs=P(), check_vma=False)
    return float(jax.jit(mapped)(arrays, given[1], examples, keys, numbers))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_supervised_is_the_cross_entropy_of_the_logits(task, examples, keys):
    given = model({"type": "Classifier"}, task)
    loss = call(Supervised(task, label_smoothing=0.2), given, examples, keys)
    logits = np.asarray(outputs(*given, examples.waves[:, 0]), np.float64)
    if task == "multiclass":
        targets = 0.8 * np.asarray(examples.targets) + 0.2 / CLASSES
        expected = (logsumexp(logits, axis=1) - (targets * logits).sum(axis=1)).mean()
    else:
        targets = 0.8 * np.asarray(examples.targets) + 0.2 / 2
        expected = (np.logaddexp(0, logits) - targets * logits).mean()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_mixup_mixes_waves_and_targets_of_neighbours_by_the_same_share(examples):
    keys = jax.random.split(jax.random.key(3), COUNT)
    mixed = call(Supervised(mixup=0.4), (Echo(), None), examples, keys)
    shares = [jax.random.beta(jax.random.split(key, 3)[1], 0.4, 0.4, dtype=jnp.float32) for key in keys]
    share = np.array(shares, np.float64)[:, None]
    partner = np.arange(COUNT).reshape(-1, 2)[:, ::-1].reshape(-1)
    waves, targets = np.asarray(examples.waves[:, 0, :CLASSES], np.float64), np.asarray(examples.targets)
    logits = share * waves + (1 - share) * waves[partner]
    targets = share * targets + (1 - share) * targets[partner]
    expected = (logsumexp(logits, axis=1) - (targets * logits).sum(axis=1)).mean()
    assert mixed == pytest.approx(expected, rel=1e-5)
    assert np.ptp(share) > 0.02 and np.all((share >= 0) & (share <= 1))


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        ({"type": "Classifier"}, Supervised(augment=Augment(frames=3))),
        ({"type": "COLA", "width": 4}, Matching(augment=Augment(frames=3))),
        ({"type": "SimCLR", "width": 4}, NTXent()),
    ],
)
def test_a_model_that_can_tell_padding_does_not_learn_from_it(model, objective, examples, keys):
    frontend = {"type": "Wav2Vec", "sample_rate": 8000, "widths": (8, 8), "kernels": (10, 4), "strides": (8, 4)}
    network = {"type": "Wav2Vec2", "width": 8, "depth": 1, "heads": 2, "bins": 8, "kernel": 8, "groups": 2}
    labels, task = (tuple("abc"), "multiclass") if model["type"] == "Classifier" else ((), "contrastive")
    entry = zoo.Entry("tiny", frontend, network, len(labels), task, 0.2, labels, model=model)
    parts = zoo.create(entry, key=jax.random.key(1))
    padded = examples._replace(lengths=jnp.full_like(examples.lengths, SAMPLES // 2))
    loud = padded._replace(waves=padded.waves.at[..., SAMPLES // 2 :].multiply(30.0))
    losses = [call(objective, parts, each, keys) for each in (padded, loud)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("similarity", ["bilinear", "dot"])
def test_cola_tells_each_positive_from_those_of_the_whole_batch(similarity, devices, examples, keys):
    given = model({"type": "COLA", "width": 12, "similarity": similarity}, "contrastive")
    loss = call(Matching(), given, examples, keys, devices)
    anchors, positives = (np.asarray(outputs(*given, examples.waves[:, view])) for view in (0, 1))
    logits = np.asarray(given[0].similarity(anchors, positives), np.float64)
    assert loss == pytest.approx((logsumexp(logits, axis=1) - np.diag(logits)).mean(), rel=1e-4)


@pytest.mark.parametrize("devices", [1, 8])
def test_nt_xent_compares_each_view_with_all_others(devices, examples, keys):
    given = model({"type": "SimCLR", "width": 12, "temperature": 0.05}, "contrastive")
    loss = call(NTXent(), given, examples, keys, devices)
    z = np.concatenate([np.asarray(outputs(*given, examples.waves[:, view]), np.float64) for view in (0, 1)])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    logits = z @ z.T / 0.05
    np.fill_diagonal(logits, -np.inf)
    right = logits[np.arange(2 * COUNT), np.roll(np.arange(2 * COUNT), COUNT)]
    assert loss == pytest.approx((logsumexp(logits, axis=1) - right).mean(), rel=1e-4)


def test_nt_xent_is_finite_where_an_exponential_is_not(examples, keys):
    class Cosines(Echo):
        def similarity(self, a, b):
            return cosines(a, b) / 1e-3

    def share(waves):
        return NTXent()(Cosines(), None, examples._replace(waves=waves), keys)[0]

    mapped = jax.shard_map(share, mesh=step.mesh(1), in_specs=P("data"), out_specs=P(), check_vma=False)
    value, slope = jax.jit(jax.value_and_grad(mapped))(examples.waves)
    assert value > 20 and np.isfinite(slope).all() and np.abs(slope).max() > 0


@pytest.mark.parametrize("both", [False, True])
def test_cola_masks_positives_only_unless_told_otherwise(both, examples, keys):
    chain = Augment(frames=8, bins=8)
    first, second, _ = _projections(Echo(), None, examples, keys, chain, mask_first=both)
    changed = [np.any(z != examples.waves[:, view], axis=1) for view, z in enumerate((first, second))]
    assert changed[0].any() == both and changed[1].mean() > 0.7


def test_every_augmentation_changes_the_loss_and_none_when_off(examples, keys):
    class Spread(Echo):
        def classify(self, x, state, *, key):
            return jnp.stack([x[:, :40].std(), x[:10].std(), x.mean(axis=0).std()]), state

    plain = call(Supervised(), (Spread(), None), examples, keys)
    assert call(Supervised(augment=Augment()), (Spread(), None), examples, keys) == plain
    chosen = {"shift": True, "gain": 6.0, "noise": 5.0, "resize": 1.5, "frames": 6, "bins": 6}
    for name, value in chosen.items():
        objective = Supervised(augment=dataclasses.replace(Augment(), **{name: value}))
        assert abs(call(objective, (Spread(), None), examples, keys) - plain) > 1e-5, name


def test_an_objective_of_ones_own_is_ten_lines(examples, keys):
    def squares(model, state, batch, keys):
        logits, state = over_batch(lambda wave, key, state: model(wave, state, key=key))(batch.waves[:, 0], keys, state)
        return jnp.mean((logits - batch.targets) ** 2), state

    expected = np.mean((np.asarray(examples.waves[:, 0, :CLASSES]) - np.asarray(examples.targets)) ** 2)
    assert call(squares, (Echo(), None), examples, keys) == pytest.approx(float(expected), rel=1e-5)


def test_mixup_of_an_odd_number_is_refused(examples, keys):
    odd = partial(jax.tree.map, lambda leaf: leaf[:7])
    with pytest.raises(ValueError, match="each device has 7 examples"):
        call(Supervised(mixup=0.5), (Echo(), None), odd(examples), keys[:7])


# The margin -----------------------------------------------------------------------------------------------------------


class EchoOfCosines(Echo):
    """Its logits are 0.5 times numbers in [-1, 1]."""

    head: Cosine

    def classify(self, x, state, *, key):
        return 0.5 * jnp.clip(x[0, :CLASSES] * 3, -1.0, 1.0), state


def test_a_margin_widens_the_angle_to_the_right_class(examples, keys):
    head = Cosine(2, CLASSES, 0.5, key=jax.random.key(0))
    cosines = np.clip(np.asarray(examples.waves[:, 0, :CLASSES], np.float64) * 3, -1, 1)
    assert np.abs(cosines).max() == 1.0  # where the angle is 0 or pi
    for margin in (0.2, 0.5):
        loss, _ = Supervised(margin=margin)(EchoOfCosines(head), eqx.nn.State({}), examples, keys)
        angles = np.arccos(cosines)
        wider = np.where(angles < np.pi - margin, np.cos(angles + margin), cosines - margin * np.sin(margin))
        logits = 0.5 * np.where(np.asarray(examples.targets, bool), wider, cosines)
        expected = np.mean(logsumexp(logits, axis=1) - (logits * np.asarray(examples.targets)).sum(axis=1))
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        plain, _ = Supervised()(EchoOfCosines(head), eqx.nn.State({}), examples, keys)
        assert loss > plain


def test_a_margin_takes_a_head_of_cosines_and_one_right_class(examples, keys):
    with pytest.raises(ValueError, match="takes a head of cosines"):
        Supervised(margin=0.2)(*model({"type": "Classifier"}, "multiclass"), examples, keys)
    for options in ({"margin": -0.1}, {"margin": 1.6}, {"margin": 0.2, "task": "multilabel"}):
        with pytest.raises(ValueError, match="The margin is an angle"):
            Supervised(**options)


def test_ecapa_learns_voices_with_a_margin(keys):
    chosen = recipe.find("voxceleb_ecapa")[0]
    network = {"type": "ECAPA", "width": 8, "channels": 8, "outputs": 8, "parts": 2, "squeezed": 4, "hidden": 4}
    small = dataclasses.replace(chosen.model, network=network)
    entry = dataclasses.replace(chosen, model=small).entry(tuple("abc"))
    given = zoo.create(entry, key=jax.random.key(0))
    places = np.arange(COUNT) % CLASSES
    pitches = (np.array([200, 900, 3000])[places] + np.arange(COUNT))[:, None]
    waves = np.sin(2 * np.pi * pitches * np.arange(2400) / 16000).astype(np.float32)[:, None]
    lengths, targets = jnp.full((COUNT, 1), 2400, jnp.int32), jnp.asarray(np.eye(CLASSES, dtype=np.float32)[places])
    voices = Examples(jnp.asarray(waves), lengths, targets)
    adam = optax.adam(1e-2)

    @eqx.filter_jit
    def train(model, state, moments):
        objective = Supervised(margin=chosen.objective.margin)
        loss = eqx.filter_value_and_grad(objective, has_aux=True)
        (value, state), gradients = loss(model, state, voices, keys)
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = adam.update(gradients, moments)
        return eqx.apply_updates(model, updates), state, moments, value

    carry = (*given, adam.init(eqx.filter(given[0], eqx.is_inexact_array)))
    losses = []
    for _ in range(15):
        *carry, loss = train(*carry)
        losses.append(float(loss))
    assert np.all(np.isfinite(losses)) and losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_class_weights_are_those_of_the_counts(power, devices, examples, keys):
    clips = np.repeat(np.eye(CLASSES, dtype=np.float32), (6, 3, 1), axis=0)
    weights = np.array([6.0, 3.0, 1.0]) ** -power
    weights *= 10 / np.sum(np.array([6, 3, 1]) * weights)  # 1 in the mean over the clips
    logits, targets = (np.asarray(each, np.float64) for each in (examples.waves[:, 0, :CLASSES], examples.targets))
    for task, losses in {
        "multiclass": weights * -targets * (logits - logsumexp(logits, axis=1, keepdims=True)),
        "multilabel": weights * targets * np.logaddexp(0, -logits) / CLASSES
        + (1 - targets) * np.logaddexp(0, logits) / CLASSES,
    }.items():
        objective = counted(Supervised(task=task, class_weights=power), clips)
        loss = call(objective, (Echo(), None), examples, keys, devices)
        np.testing.assert_allclose(loss, np.mean(np.sum(losses, axis=1)), rtol=1e-5)


def test_class_weights_that_nobody_counted_for_are_refused(examples, keys):
    with pytest.raises(ValueError, match="class_weights take the clips of 3 labels"):
        call(Supervised(class_weights=1.0), (Echo(), None), examples, keys)
    with pytest.raises(ValueError, match=r"class_weights is a power of at least 0, got -1\.0"):
        Supervised(class_weights=-1.0)
    for objective in (Supervised(), Matching(), np.mean):
        assert counted(objective, np.eye(3, dtype=np.float32)) is objective
