"""Frontends, networks and models of the user's own: created, saved, loaded and trained by their names."""

import functools
import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_finetune import KEY, WAVE

import zoo
from audax_eqx import AbstractFrontend, AbstractNetwork, frontends, networks
from audax_eqx.layers import BatchNorm, Linear
from train import loop
from train.recipe import Data, Model, Optimizer, Recipe
from zoo._leaves import named_leaves


@zoo.register
class Energy(AbstractFrontend):
    """Of blocks, raised to learnable powers."""

    powers: jax.Array
    size: int = eqx.field(static=True)
    sample_rate: int = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    min_samples: int = eqx.field(static=True)

    def __init__(self, sample_rate, size=80, powers=(0.1, 0.5, 1.0)):
        self.powers, self.size, self.sample_rate = jnp.array(powers), size, sample_rate
        self.bins, self.min_samples = len(powers), size

    def __call__(self, wave):
        blocks = wave[: len(wave) // self.size * self.size].reshape(-1, self.size)
        energy = jnp.mean(jnp.square(blocks), axis=1, keepdims=True) + 1e-6
        return jnp.repeat(energy, self.bins, axis=1) ** jnp.broadcast_to(self.powers, (len(blocks), self.bins))

    def times(self, positions):
        return (positions + 0.5) * self.size / self.sample_rate


@zoo.register
class Mean(AbstractNetwork):
    """A norm with State and a layer, averaged over time."""

    norm: BatchNorm
    layer: Linear
    width: int = eqx.field(static=True)

    def __init__(self, bins, width=5, *, key):
        self.norm, self.layer, self.width = BatchNorm(bins), Linear(bins, width, key=key), width

    def features(self, x, state, *, key=None):
        x, state = self.norm(x, state)
        return self.layer(x)[:, None], state

    def __call__(self, x, state, *, key=None):
        x, state = self.features(x, state, key=key)
        return jnp.mean(x, axis=(0, 1)), state

    def positions(self, time):
        return np.arange(time, dtype=np.float64)


@zoo.register
class TwoLayers(eqx.Module):
    """A head of two layers."""

    frontend: AbstractFrontend
    network: AbstractNetwork
    layers: tuple[Linear, Linear]
    task: str = eqx.field(static=True)

    def __init__(self, frontend, network, classes, *, task, hidden=4, key):
        keys = jax.random.split(key)
        self.frontend, self.network, self.task = frontend, network, task
        self.layers = Linear(network.width, hidden, key=keys[0]), Linear(hidden, classes, key=keys[1])

    def listen(self, wave):
        return self.frontend(wave)

    def embed(self, wave, state, *, key=None):
        return self.network(self.listen(wave), state, key=key)

    def __call__(self, wave, state, *, key=None):
        return self.classify(self.listen(wave), state, key=key)

    def classify(self, x, state, *, key=None):
        embedding, state = self.network(x, state, key=key)
        return self.layers[1](jax.nn.relu(self.layers[0](embedding))), state


ENTRY = zoo.Entry(
    name="mine",
    frontend={"type": "Energy", "sample_rate": 8000, "powers": (0.25, 1.0)},
    network={"type": "Mean", "bins": 2, "width": 6},
    model={"type": "TwoLayers", "hidden": 3},
    classes=2,
    task="multilabel",
    window=0.5,
    labels=("loud", "soft"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("own") / "mine"
    zoo.save(made, *zoo.create(ENTRY, key=KEY), ENTRY)
    return made


def test_a_model_of_own_parts_is_saved_and_loads_bit_by_bit(folder):
    clip, (model, state) = zoo.load(folder, verify=True), zoo.create(ENTRY, key=KEY)
    assert clip.entry == ENTRY and (type(clip.model), type(clip.model.network)) == (TwoLayers, Mean)
    ours, theirs = named_leaves(clip.model, clip.state), named_leaves(model, state)
    assert ours.keys() == theirs.keys() and {"frontend.powers", "network.norm.running_mean"} <= ours.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)
    assert dict(clip.top(WAVE)).keys() == {"loud", "soft"} and clip.frames(WAVE).shape == (50, 6)
    assert clip.frame_times(2) == pytest.approx([0.005, 0.015])
    facts = json.loads((folder / "preprocessor_config.json").read_text())
    assert (facts["feature_extractor_type"], facts["sampling_rate"], facts["size"]) == ("Energy", 8000, 80)
    assert "`Mean` behind `Energy`" in (folder / "README.md").read_text()


def test_a_model_of_own_parts_thaws_to_a_classifier_of_the_librarys(folder, tmp_path):
    thawed = zoo.load(folder).thaw(labels=("x", "y", "z"), task="multiclass", key=KEY)
    assert thawed.entry.model == {"type": "Classifier"} and thawed.entry.network == ENTRY.network
    zoo.save(tmp_path / "tuned", *thawed, thawed.entry)
    assert len(zoo.load(tmp_path / "tuned").top(WAVE)) == 3


def test_a_model_of_the_users_own_may_keep_its_task_too(folder, tmp_path):
    model, state = zoo.create(ENTRY, key=KEY)
    with pytest.raises(ValueError, match="is multilabel, and its entry is multiclass"):
        zoo.save(tmp_path / "other", model, state, ENTRY.replace(task="multiclass"))


def test_a_recipe_builds_own_parts_and_its_objective_trains_them(folder):
    recipe = Recipe(
        name="own",
        model=Model(frontend=ENTRY.frontend, network=ENTRY.network, head=ENTRY.model),
        data=Data(seconds=0.5, batch=2),
        optimizer=Optimizer(learning_rate=1e-3),
    )
    entry = recipe.entry(ENTRY.labels)
    assert entry.task == "multiclass" and entry.frontend == ENTRY.frontend
    model, _ = loop.build(recipe, entry)
    assert (type(model), type(model.frontend), type(model.network)) == (TwoLayers, Energy, Mean)
    started = Recipe(name="tuned", model=Model(start=str(folder)), data=recipe.data, optimizer=recipe.optimizer)
    model, _ = loop.build(started, started.entry(("x", "y", "z")))
    assert type(model.frontend) is Energy and model.classes == 3


UNKNOWN = """
import sys, zoo
before = set(sys.modules)
for function in (zoo.info, zoo.load):
    try:
        function(sys.argv[1])
    except ValueError as error:
        print(error)
assert "test_register" not in sys.modules and "os.path" in before
"""


def test_a_folder_of_own_parts_says_in_another_process_what_to_register(folder):
    done = subprocess.run([sys.executable, "-c", UNKNOWN, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 and "mine names 'Energy', which is not in audax_eqx.frontends: it has" in lines[0]
    assert "zoo.register(Energy)" in lines[0]


@pytest.mark.parametrize("part", ["frontend", "network", "model"])
@pytest.mark.parametrize("kind", ["test_register.Energy", "os.system", "builtins:eval", "energy", "Energy2"])
def test_nothing_but_what_was_registered_under_a_name_is_found_by_it(part, kind):
    entry = ENTRY.replace(**{part: getattr(ENTRY, part) | {"type": kind}})
    with pytest.raises(ValueError, match=rf"names '{kind}', which is not in audax_eqx\.{part}s?: .*zoo\.register\("):
        zoo.create(entry, key=KEY)


def test_a_part_is_not_taken_for_one_of_another_kind():
    with pytest.raises(ValueError, match=r"'Mean', which is not in audax_eqx\.frontends: it has .*Energy"):
        zoo.create(ENTRY.replace(frontend=ENTRY.frontend | {"type": "Mean"}), key=KEY)


@pytest.mark.parametrize(
    "part, options, fault",
    [
        ("frontend", {"colour": 3}, "options that Energy does not take.*colour"),
        ("frontend", {"powers": 3}, "gives Energy an option that makes no sense to it"),
        ("model", {"classes": 5}, "gives TwoLayers classes, which the entry itself decides"),
        ("network", {"key": 5}, "gives Mean key, which the entry itself decides"),
    ],
)
def test_options_of_own_parts_are_checked_as_the_librarys_are(part, options, fault):
    with pytest.raises(ValueError, match=fault):
        zoo.create(ENTRY.replace(**{part: getattr(ENTRY, part) | options}), key=KEY)


def test_dropout_is_given_to_a_model_that_takes_it_alone():
    with pytest.raises(ValueError, match=r"options that TwoLayers does not take.*dropout"):
        zoo.create(ENTRY.replace(dropout=0.5), key=KEY)


def test_registering_gives_the_class_back_and_may_be_repeated():
    assert zoo.register(Energy) is Energy
    small = functools.partial(networks.ResNet, (1,), widths=(8,))
    assert zoo.register(small, name="resnet_of_a_test") is small
    zoo.register(functools.partial(networks.ResNet, (1,), widths=(8,)), name="resnet_of_a_test")
    model, _ = zoo.create(ENTRY.replace(network={"type": "resnet_of_a_test"}), key=KEY)
    assert model.network.width == 8
    with pytest.raises(ValueError, match=r"resnet_of_a_test is the name of audax_eqx\.networks"):
        zoo.register(functools.partial(networks.ResNet, (2,), widths=(8,)), name="resnet_of_a_test")


def named(name, *bases):
    return type(name, bases, {"__module__": "elsewhere"})


@pytest.mark.parametrize(
    "constructor, name",
    [
        (named("LogMel", frontends.LogMel), None),
        (named("resnet18", networks.ResNet), None),
        (named("Classifier", TwoLayers), None),
        (named("ResNet", Energy), None),  # a frontend by a network's name
        (named("Energy", Energy), None),
        (named("Energy", Mean), None),
        (Mean, "Energy"),
        (Energy, "COLA"),
    ],
)
def test_a_name_means_one_thing(constructor, name):
    taken = name or constructor.__name__
    with pytest.raises(ValueError, match=rf"{taken} is the name of .* already.*give it another one") as raised:
        zoo.register(constructor, name=name)
    assert "\n" not in str(raised.value)


class Half(AbstractFrontend):
    sample_rate: int

    def __call__(self, wave):
        return wave[:, None]


class Bare(eqx.Module):
    frontend: AbstractFrontend

    def embed(self, wave, state, *, key=None):
        return wave, state


@pytest.mark.parametrize(
    "constructor, fault",
    [
        (Half, "Half lacks bins, min_samples, times"),
        (Bare, "Bare lacks __call__, listen, network"),
        (AbstractFrontend, "AbstractFrontend lacks"),
        (dict, "takes a class that is an AbstractFrontend, an AbstractNetwork or"),
        (lambda wave: wave, "takes a class"),
        (Energy(8000), "takes a class"),
        ("Energy", "takes a class"),
        (functools.partial(Energy, size=3), r"a functools\.partial with a name, got none for Energy"),
    ],
)
def test_what_is_no_part_is_told_in_one_sentence(constructor, fault):
    with pytest.raises(TypeError, match=fault) as raised:
        zoo.register(constructor)
    assert "\n" not in str(raised.value)


CELL = """
import equinox as eqx, zoo
from audax_eqx import frontends
cell = '''
@zoo.register
class Mine(frontends.LogMel.__base__):
    sample_rate: int = 8000
    bins: int = NUMBER
    min_samples: int = 1
    def __call__(self, wave):
        return wave[:, None]
    def times(self, positions):
        return positions
'''
for number in (1, 2):
    exec(cell.replace("NUMBER", str(number)))
from zoo._register import constructor_of
print(constructor_of(frontends, "Mine")().bins)
"""


def test_a_cell_of_a_notebook_may_be_run_again():
    done = subprocess.run([sys.executable, "-c", CELL], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr
