"""The step: the same on any number of devices, in any number of parts, in closed form, and in half precision."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import zoo
from audax_eqx import lora, tree
from train import step as steps
from train.data import Batch
from train.loop import build
from train.objectives import Augment, Matching, NTXent, Supervised
from train.recipe import Data, Model, Optimizer, Recipe, Run

FRONTEND = {"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 160, "floor": 1e-5}
NETWORK = {"type": "ResNet", "depths": (1,), "widths": (8,)}
AUGMENT = Augment(frames=5, bins=4)
LABELS = ("a", "b", "c")
BATCH, SAMPLES = 16, 2000
RECIPE = Recipe(
    name="tiny",
    model=Model(frontend=FRONTEND, network=NETWORK, dropout=0.3),
    data=Data(seconds=0.25, batch=BATCH),
    optimizer=Optimizer(learning_rate=0.8, method="sgd"),
    objective=Supervised(mixup=0.5, label_smoothing=0.1, augment=AUGMENT),
    run=Run(steps=20),
)
HEADS = {
    "supervised": RECIPE,
    "cola": dataclasses.replace(
        RECIPE,
        model=dataclasses.replace(RECIPE.model, head={"type": "COLA", "width": 16}, dropout=0.0),
        objective=Matching(AUGMENT),
    ),
    "simclr": dataclasses.replace(
        RECIPE,
        model=dataclasses.replace(RECIPE.model, head={"type": "SimCLR", "width": 16}, dropout=0.0),
        objective=NTXent(AUGMENT),
    ),
}


def batches(recipe, count, seed=0):
    """Tones of each class at random pitches, as `train.data` gives them."""
    rng = np.random.default_rng(seed)
    views = 1 if isinstance(recipe.objective, Supervised) else 2
    parts = recipe.run.accumulate
    for _ in range(count):
        rows = rng.integers(0, 100, BATCH)
        pitch = 200 * (1 + rows % 3)[:, None, None] * rng.uniform(0.9, 1.1, (BATCH, views, 1))
        waves = np.sin(2 * np.pi * pitch * np.arange(SAMPLES) / 8000) + 0.1 * rng.normal(size=(BATCH, views, SAMPLES))
        lengths = rng.integers(SAMPLES // 2, SAMPLES + 1, (BATCH, views)).astype(np.int32)
        waves = np.where(np.arange(SAMPLES) < lengths[..., None], 8000 * waves, 0).astype(np.int16)
        targets = np.eye(3, dtype=np.float32)[rows % 3]
        batch = Batch(waves, lengths, targets, rows.astype(np.int32))
        yield Batch(*(leaf.reshape(parts, BATCH // parts, *leaf.shape[1:]) for leaf in batch))


def copied(model):
    return jax.tree.map(lambda leaf: np.array(leaf) if eqx.is_array(leaf) else leaf, model)


RUNS = {}


def run(recipe, devices, count=20):
    """`train` once for all tests that ask for it."""
    asked = recipe.to_json(), devices, count
    if asked not in RUNS:
        RUNS[asked] = train(recipe, devices, count)
    return RUNS[asked]


def train(recipe, devices, count):
    """Losses, and the model and its State in front of the first step and after each of the first two and the last."""
    mesh = steps.mesh(devices)
    carry, static = steps.begin(*build(recipe, recipe.entry(LABELS)), recipe, mesh)
    step, rate = steps.make_step(recipe, static, mesh), steps.schedule(recipe, 160)
    losses, models = [], [copied(steps.trained_model(carry, static))]
    for done, batch in enumerate(batches(recipe, count)):
        batch = jax.device_put(batch, NamedSharding(mesh, P(None, "data")))
        carry, logs = step(carry, batch, np.float32(rate(done)))
        losses.append(float(logs["loss"]))
        if len(losses) in (1, 2, count):
            models.append(copied(steps.trained_model(carry, static)))
    return np.array(losses), models


def arrays(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_array))


@pytest.mark.parametrize(("name", "counts"), [("supervised", (2, 8)), ("cola", (8,)), ("simclr", (8,))])
def test_the_number_of_devices_changes_nothing(name, counts):
    one, models = run(HEADS[name], 1)
    assert np.ptp(one) > 1e-2
    for devices in counts:
        losses, others = run(HEADS[name], devices)
        np.testing.assert_allclose(losses, one, rtol=1e-4)
        for a, b in zip(arrays(others[-1]), arrays(models[-1]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_losses_differ_where_batch_norm_sees_one_device_alone(monkeypatch):
    monkeypatch.setattr(steps, "across", lambda model: model)
    few = train(HEADS["supervised"], 8, count=3)[0]
    assert np.abs(few / run(HEADS["supervised"], 1)[0][:3] - 1).max() > 1e-3


CONVNEXT = {"type": "ConvNeXt", "depths": (1,), "widths": (8,), "layer_scale": 1.0}
STATELESS = dataclasses.replace(
    RECIPE,
    model=dataclasses.replace(RECIPE.model, network=CONVNEXT),
    objective=Supervised(mixup=0.5, augment=AUGMENT),
)


def with_run(recipe, **fields):
    return dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, **fields))


def with_optimizer(recipe, **fields):
    return dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, **fields))


def test_the_parts_of_a_batch_change_nothing_where_the_loss_is_a_mean():
    whole, models = run(STATELESS, 1, count=8)
    losses, others = run(with_run(STATELESS, accumulate=2), 4, count=8)
    np.testing.assert_allclose(losses, whole, rtol=1e-4)
    for a, b in zip(arrays(others[-1]), arrays(models[-1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)


def test_bfloat16_computes_in_half_precision_with_float32_masters():
    exact, _ = run(STATELESS, 1, count=8)
    losses, models = run(with_run(STATELESS, precision="bfloat16"), 1, count=8)
    assert {leaf.dtype for leaf in arrays(models[-1])} == {np.dtype(np.float32)}
    np.testing.assert_allclose(losses, exact, rtol=2e-2)
    assert np.any(losses != exact)


def test_the_average_follows_the_weights():
    """The average after 2 steps, from the weights in front of them and after 1 and 2: its decay is 1/10, then 2/11."""
    _, averages = run(with_optimizer(STATELESS, ema=0.75), 1, count=8)
    _, models = run(STATELESS, 1, count=8)
    for average, *values in zip(*map(arrays, (averages[2], *models[:3])), strict=True):
        expected = sum(share * value for share, value in zip((0.2 / 11, 1.8 / 11, 9 / 11), values, strict=True))
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)


ALL = dataclasses.replace(
    RECIPE,
    optimizer=Optimizer(0.1, warmup=0.5, clip=2.0, ema=0.9, rates=(("head.*", 2.0), ("*", 0.5))),
    objective=Supervised(mixup=0.3, label_smoothing=0.1, augment=Augment(gain=6.0, noise=20.0, resize=1.2, frames=5)),
)


def other(tree):
    """The tree with another value in place of each of its numbers."""
    return jax.tree.map(
        lambda leaf: 0.9 * leaf + 0.11 if isinstance(leaf, float) and leaf not in (0, 1) else leaf, tree
    )


def lowered(recipe):
    """The recipe's program, and the numbers that are its arguments."""
    chosen = steps.mesh(2)
    carry, static = steps.begin(*build(recipe, recipe.entry(LABELS)), recipe, chosen)
    step = steps.make_step(recipe, static, chosen)
    batch = jax.device_put(next(batches(recipe, 1)), NamedSharding(chosen, P(None, "data")))
    numbers = [float(leaf) for leaf in jax.tree.leaves(step.keywords["numbers"])]
    return step.func.lower(carry, batch, np.float32(0.1), **step.keywords).as_text(), numbers


@pytest.mark.parametrize("method", ["adamw", "sgd"])
def test_other_numbers_are_the_same_program(method):
    """Those of the optimizer and the objective, the schedule, the seed and the length; 0 and 1 are other programs."""
    recipe = with_optimizer(ALL, method=method)
    changed = dataclasses.replace(recipe, optimizer=other(recipe.optimizer), objective=other(recipe.objective))
    changed = with_run(with_optimizer(changed, schedule="step", decay_epochs=3.0), seed=7, steps=50)
    (program, numbers), (text, others) = lowered(recipe), lowered(changed)
    assert text == program
    assert len(numbers) == len(others) > 12 and not set(numbers) & set(others)
    assert lowered(with_optimizer(recipe, clip=0.0))[0] != program


def test_numbers_of_ones_own_objective_stay_as_they_are():
    """A function may close over numbers, and a dataclass may choose by them: only modules have theirs traced."""

    @dataclasses.dataclass(frozen=True)
    class Scaled:
        factor: float

        def __call__(self, model, state, batch, keys):
            loss, state = Supervised()(model, state, batch, keys)
            return loss * self.factor if self.factor > 2 else loss, state

    losses = [train(dataclasses.replace(RECIPE, objective=Scaled(factor)), 1, 1)[0] for factor in (1.5, 2.5)]
    np.testing.assert_allclose(losses[1], 2.5 * losses[0], rtol=1e-6)


@pytest.mark.parametrize("recipe", [ALL, STATELESS], ids=["adamw", "sgd"])
def test_a_step_compiles_once(recipe):
    """Weak types in what the user's model begins with would make another program of the second step."""
    chosen = steps.mesh(2)
    model, state = build(recipe, recipe.entry(LABELS))
    model = eqx.tree_at(lambda tree: tree.head.bias, model, jnp.full(3, 0.5))
    carry, static = steps.begin(model, state, recipe, chosen)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(carry))
    step = steps.make_step(recipe, static, chosen)
    for batch in batches(recipe, 3):
        carry, _ = step(carry, jax.device_put(batch, NamedSharding(chosen, P(None, "data"))), np.float32(0.1))
    assert step.func._cache_size() == 1


def test_what_is_frozen_stays_as_it_was_and_infers():
    recipe = with_optimizer(RECIPE, freeze=("frontend.*", "network.*"), method="adamw", learning_rate=0.1)
    _, models = run(recipe, 1, count=3)
    (before, state), (after, moved) = models[0], models[-1]
    for a, b in zip(arrays((before.network, state)), arrays((after.network, moved)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(before.head.weight - after.head.weight).max() > 1e-4
    parameters, rest = tree.freeze(build(recipe, recipe.entry(LABELS))[0], recipe.optimizer.freeze)
    assert rest.network.norm.inference and not rest.dropout.inference
    assert len(jax.tree.leaves(parameters)) == 2  # the head's weight and bias


def test_a_pattern_that_freezes_nothing_or_everything_is_refused():
    model, _ = build(RECIPE, RECIPE.entry(LABELS))
    with pytest.raises(ValueError, match=r"'encoder\.\*' is no parameter of the model: they are called as network"):
        tree.freeze(model, ("encoder.*",))
    with pytest.raises(ValueError, match="leaves nothing to train"):
        tree.freeze(model, ("*",))


def moved_by(optimizer, parameters, gradients):
    update = steps.transformation(optimizer, lambda _: 0.01)
    with jax.numpy_dtype_promotion("standard"):
        return update.update(gradients, update.init(parameters), parameters)[0]


@pytest.mark.parametrize("frontend", [{"type": "LEAF", "sample_rate": 8000, "bins": 8}, FRONTEND])
@pytest.mark.parametrize("network", ["resnet18", "efficientnet_b0", "convnext_atto", "ast_tiny"])
def test_only_matrices_and_kernels_of_the_network_decay(network, frontend):
    model = dataclasses.replace(RECIPE.model, frontend=frontend, network={"type": network})
    entry = dataclasses.replace(RECIPE, model=model).entry(LABELS)
    shapes, _ = eqx.filter_eval_shape(zoo.create, entry, key=jax.random.key(0))
    optimizer = dataclasses.replace(RECIPE.optimizer, method="adamw", weight_decay=0.5)

    def decayed(parameters):
        return moved_by(optimizer, parameters, jax.tree.map(jnp.zeros_like, parameters))

    # The update of a zero gradient is the decay: ask for it at a few values of each parameter
    kinds = jax.tree.map(
        lambda leaf: jnp.ones((1,) * leaf.ndim), eqx.filter(shapes, lambda leaf: hasattr(leaf, "ndim"))
    )
    found = dict(zip(jax.tree.leaves(tree.names(kinds)), jax.tree.leaves(decayed(kinds)), strict=True))
    for name, change in found.items():
        last = name.split(".")[-1]
        expected = last == "weight" and "norm" not in name and not name.startswith("frontend.")
        assert float(change.squeeze()) == pytest.approx(-0.005 if expected else 0.0), name
    assert sum(float(change.squeeze()) < 0 for change in found.values()) > 5


def test_layers_have_rates_of_their_own():
    parameters = {"head": {"weight": jnp.ones((2, 2))}, "network": {"weight": jnp.ones((2, 2))}}
    optimizer = Optimizer(1.0, method="sgd", b1=0.0, weight_decay=0.0, clip=0.0, rates=(("head.*", 3.0), ("*", 0.5)))
    moved = moved_by(optimizer, parameters, jax.tree.map(jnp.ones_like, parameters))
    np.testing.assert_allclose(moved["head"]["weight"], -0.03)
    np.testing.assert_allclose(moved["network"]["weight"], -0.005)


def test_the_gradients_norm_is_clipped():
    parameters = {"a": jnp.ones(3), "b": jnp.ones(4)}
    gradients = jax.tree.map(lambda leaf: 10 * leaf, parameters)
    moved = moved_by(Optimizer(1.0, method="sgd", b1=0.0, clip=2.0), parameters, gradients)
    assert float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in moved.values()))) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [  # 10 epochs of 100 steps each at batch 16: the peak is 0.8 * 16 / 256 = 0.05
        ({"schedule": "constant"}, {0: 0.05, 999: 0.05}),
        ({"schedule": "cosine"}, {0: 0.05, 500: 0.025, 1000: 0.0}),
        ({"schedule": "cosine", "warmup": 2.0}, {0: 0.0, 100: 0.025, 200: 0.05, 600: 0.025, 1000: 0.0}),
        ({"schedule": "step", "decay_epochs": 3.0}, {299: 0.05, 300: 0.005, 600: 0.0005}),
        ({"schedule": "exponential", "decay_epochs": 3.0}, {0: 0.05, 150: 0.05 * 0.1**0.5, 300: 0.005}),
    ],
)
def test_the_rate_warms_up_and_falls(fields, expected):
    recipe = with_run(with_optimizer(RECIPE, **fields), steps=None, epochs=10.0)
    rate = steps.schedule(recipe, examples=1600)
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, abs=1e-7), step


@pytest.mark.parametrize("layers", ["last", "weighted"])
def test_adapters_and_the_head_are_all_that_learns(layers, tmp_path):
    network = {"type": "AST", "depth": 2, "width": 16, "heads": 2, "bins": 16, "frames": 13, "patch": 8}
    start = dataclasses.replace(RECIPE, model=Model(frontend=FRONTEND, network=network)).entry(LABELS)
    zoo.save(tmp_path, *zoo.create(start, key=jax.random.key(0)), start)
    adapted = Model(start=str(tmp_path), lora=2, layers=layers)
    recipe = dataclasses.replace(RECIPE, model=adapted, optimizer=Optimizer(learning_rate=3.2))
    entry = recipe.entry(LABELS)
    model, state = build(recipe, entry)
    before, devices = copied(lora.merge(model)), steps.mesh(1)
    carry, static = steps.begin(model, state, recipe, devices)
    trained = set(jax.tree.leaves(tree.names(carry.parameters)))
    assert {name for name in trained if not name.endswith((".down", ".up"))} == {"head.weight", "head.bias"} | (
        {"network.weights"} if layers == "weighted" else set()
    )
    step = steps.make_step(recipe, static, devices)
    for batch in batches(recipe, 2):
        carry, _ = step(carry, batch, jnp.float32(1e-2))
    model, state = steps.trained_model(carry, static)
    zoo.save(tmp_path / "tuned", model, state, entry)  # merged: the names are those of the entry's model
    moved = [np.abs(a - b).max() for a, b in zip(arrays(before), arrays(model), strict=True)]
    assert max(moved) > 1e-3 and min(moved) == 0


@pytest.mark.parametrize(("rank", "start"), [(-1, "cola_small"), (4, None)])
def test_adapters_need_a_rank_and_a_pretrained_model(rank, start):
    model = Model(start=start, lora=rank) if start else dataclasses.replace(RECIPE.model, lora=rank)
    with pytest.raises(ValueError, match=f"adapters of rank {rank}: the rank is at least 1"):
        dataclasses.replace(RECIPE, model=model)
