"""Recipes: the models they build, the numbers they train with, and what the command line makes of both."""

import dataclasses
import functools
import importlib
import pathlib
import re
import shlex

import equinox as eqx
import jax
import pytest

import zoo
from audax_eqx import tree
from train import __main__ as command
from train import loop, recipe, step
from train.objectives import Matching, NTXent, Supervised, views
from zoo._create import skeleton

NAMES = recipe.names()
LABELS = tuple(f"label {index}" for index in range(35))
NETWORKS = {  # their parameters by torchvision and timm, with one input channel and without a head
    "resnet18": (11_170_240, 512),
    "efficientnet_b0": (4_006_972, 1280),
    "convnext_tiny": (27_817_056, 768),
}
FRONTENDS = {"LogMel": 0, "LEAF": 64 * 2 + 64 + 4 * 64, "SincNet": 64 * 2 + 2 * 64}
EXPECTED = {
    "audioset_resnet18": ("LogMel", "resnet18", "Classifier"),
    "audioset_efficientnet_b0": ("LogMel", "efficientnet_b0", "Classifier"),
    "audioset_convnext_tiny": ("LogMel", "convnext_tiny", "Classifier"),
    "audioset_leaf": ("LEAF", "efficientnet_b0", "Classifier"),
    "audioset_sincnet": ("SincNet", "efficientnet_b0", "Classifier"),
    "speech_commands_resnet18": ("LogMel", "resnet18", "Classifier"),
    "speech_commands_efficientnet_b0": ("LogMel", "efficientnet_b0", "Classifier"),
    "speech_commands_convnext_tiny": ("LogMel", "convnext_tiny", "Classifier"),
    "voxceleb": ("LogMel", "efficientnet_b0", "Classifier"),
    "esc50": ("LogMel", "resnet18", "Classifier"),
    "cola_efficientnet_b0": ("LogMel", "efficientnet_b0", "COLA"),
    "cola_convnext_tiny": ("LogMel", "convnext_tiny", "COLA"),
    "simclr_efficientnet_b0": ("LogMel", "efficientnet_b0", "SimCLR"),
    "simclr_convnext_tiny": ("LogMel", "convnext_tiny", "SimCLR"),
}
OURS = {"voxceleb_ecapa", "esc10", "fsdd", "cola_small", "simclr_small", "linear_probe", "finetune"}  # not audax's
OBJECTIVES = {"Classifier": Supervised, "COLA": Matching, "SimCLR": NTXent}
AUDIOSET = [name for name in NAMES if name.startswith("audioset")]
SPEECH_COMMANDS = [name for name in NAMES if name.startswith("speech_commands")]
CONTRASTIVE = [name for name in NAMES if name.startswith(("cola", "simclr")) and name not in OURS]


@functools.cache
def built(name):
    """The entry of the recipe's model and its skeleton."""
    entry = recipe.find(name)[0].entry(LABELS)
    return entry, skeleton(entry)[0]


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape"))


def text(name):
    """The recipe's own docstring."""
    return importlib.import_module(f"train.recipes.{name}").__doc__


def commands(name):
    """What the docstring tells to type, as lists of words."""
    lines = (line.strip() for line in text(name).splitlines())
    return [shlex.split(line) for line in lines if line.startswith("audax-train ")]


@pytest.fixture
def trained(monkeypatch):
    """What the command line would train, instead of training it: (recipe, data, out) each."""
    calls = []
    for function in ("train", "cross_validate"):
        monkeypatch.setattr(command, function, lambda *given: calls.append(given) or 0)
    return calls


# Models ---------------------------------------------------------------------------------------------------------------


def test_all_recipes_are_there():
    assert set(NAMES) == {*EXPECTED, *OURS}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_model_is_the_one_it_is_named_after(name):
    frontend, network, head = EXPECTED[name]
    entry, model = built(name)
    parameters, width = NETWORKS[network]
    heads = {
        "Classifier": 35 * width + 35,
        "COLA": 512 * width + 512 * 512 + 2 * 512,
        "SimCLR": width * width + width + 128 * width,
    }
    assert entry.name == name and entry.network["type"] == network and entry.sample_rate == model.frontend.sample_rate
    assert (type(model.frontend).__name__, type(model).__name__) == (frontend, head)
    assert size(model.network) == parameters and model.network.width == width
    assert size(model.frontend) == FRONTENDS[frontend]
    assert size(model) == parameters + FRONTENDS[frontend] + heads[head]


@pytest.mark.parametrize("name", NAMES)
def test_every_frontend_makes_frames_of_its_crops(name):
    chosen, (entry, model) = recipe.find(name)[0], built(name)
    assert entry.window == chosen.data.seconds
    wave = jax.ShapeDtypeStruct((round(chosen.data.seconds * entry.sample_rate),), "float32")
    frames, bins = eqx.filter_eval_shape(lambda frontend, wave: frontend(wave), model.frontend, wave).shape
    assert bins == model.frontend.bins and frames in (50 * entry.window + 1, 100 * entry.window + 1, 100 * entry.window)


@pytest.mark.parametrize("name", ["speech_commands_resnet18", "cola_convnext_tiny", "simclr_efficientnet_b0"])
def test_networks_take_the_shortest_crops(name):
    entry, model = built(name)
    state = skeleton(entry)[1]
    wave = jax.ShapeDtypeStruct((round(entry.window * entry.sample_rate),), "float32")
    outputs, _ = eqx.filter_eval_shape(lambda *given: given[0](*given[1:]), eqx.nn.inference_mode(model), wave, state)
    assert outputs.shape == (model.classes if entry.classes else model.width,)


@pytest.mark.parametrize("name", NAMES)
def test_objective_head_and_metric_fit_each_other(name):
    chosen, (entry, model) = recipe.find(name)[0], built(name)
    assert type(chosen.objective) is OBJECTIVES[type(model).__name__]
    assert entry.task == chosen.objective.task
    assert entry.labels == (() if entry.task == "contrastive" else LABELS)
    assert views(chosen.objective) == (2 if entry.task == "contrastive" else 1)
    measured = {"multilabel": "mAP", "multiclass": "accuracy", "contrastive": "accuracy"}[entry.task]
    assert chosen.run.best in (None, measured)
    if entry.task == "contrastive":  # without labels there is nothing to mix, nor to balance but sets
        assert not hasattr(chosen.objective, "mixup") and not chosen.model.dropout
        assert chosen.data.balanced == (name == "cola_small")
    elif chosen.objective.mixup:
        assert chosen.data.batch % 16 == 0  # pairs, on eight devices


def test_log_mel_is_audaxs_but_for_its_framing():
    _, model = built("audioset_resnet18")
    ours = {field.name: getattr(model.frontend, field.name) for field in dataclasses.fields(model.frontend)}
    wanted = {"sample_rate": 16000, "bins": 64, "n_fft": 1024, "win_length": 400, "hop_length": 160, "power": 2.0}
    wanted |= {"f_min": 60.0, "f_max": 7800.0, "mel_scale": "htk", "norm": None, "log": "natural", "floor": 1e-8}
    assert ours | wanted | {"framing": "center"} == ours


@pytest.mark.parametrize("name", [*AUDIOSET, *SPEECH_COMMANDS, *CONTRASTIVE, "voxceleb"])
def test_all_at_16_khz_hear_64_bins(name):
    entry, model = built(name)
    assert entry.sample_rate == 16000 and model.frontend.bins == 64
    if entry.frontend["type"] == "LogMel":
        assert entry.frontend == built("audioset_resnet18")[0].frontend
    else:
        assert entry.frontend == {"type": EXPECTED[name][0], "sample_rate": 16000, "bins": 64}


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUDIOSET)
def test_audiosets_numbers_are_audaxs(name):
    chosen = recipe.find(name)[0]
    objective, masks = chosen.objective, chosen.objective.augment
    assert (chosen.optimizer.method, chosen.optimizer.learning_rate, chosen.optimizer.warmup) == ("adamw", 5e-4, 10)
    assert chosen.optimizer.weight_decay == (1e-6 if name in ("audioset_leaf", "audioset_sincnet") else 0.05)
    assert (objective.task, objective.mixup, objective.label_smoothing) == ("multilabel", 0.8, 0)
    assert (masks.bins, masks.frames, masks.masks) == (8, 50, 2)
    assert (chosen.model.dropout, chosen.data.seconds, chosen.run.epochs) == (0.4, 5.0, 50)
    assert built(name)[1].dropout.p == 0.4
    assert (chosen.data.hold_out, chosen.data.held_out) == ("split", ("eval",))


@pytest.mark.parametrize("name", SPEECH_COMMANDS)
def test_speech_commands_numbers_are_audaxs(name):
    chosen = recipe.find(name)[0]
    assert (chosen.data.seconds, chosen.data.batch, chosen.objective.task) == (1.0, 1024, "multiclass")
    assert (chosen.data.hold_out, chosen.data.held_out) == ("split", ("testing",))
    assert (chosen.optimizer.learning_rate, chosen.run.epochs, chosen.model.dropout) == (5e-4, 50, 0.4)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_contrastive_numbers_are_audaxs(name):
    chosen, (_, model) = recipe.find(name)[0], built(name)
    masks = chosen.objective.augment
    assert (chosen.optimizer.learning_rate, chosen.data.seconds, chosen.run.epochs) == (1e-3, 0.96, 50)
    assert (masks.bins, masks.frames, masks.masks) == (10, 10, 2)
    if name.startswith("cola"):
        assert model.width == 512 and model.bilinear is not None and not chosen.objective.both
    else:
        assert model.temperature == 0.1 and model.projection.expand.outputs == model.network.width


@pytest.mark.parametrize(
    ("name", "peak", "warmup"),
    [
        ("audioset_convnext_tiny", 5e-4 * 512 / 256, 10),
        ("speech_commands_resnet18", 5e-4 * 1024 / 256, 5),
        ("cola_efficientnet_b0", 1e-3 * 1024 / 256, 5),
    ],
)
def test_the_rate_grows_with_the_batch_then_linearly_then_falls_as_a_cosine(name, peak, warmup):
    chosen = recipe.find(name)[0]
    rate = step.schedule(chosen, 20 * chosen.data.batch)  # 20 steps an epoch
    warmup, total = 20 * warmup, 20 * 50
    assert chosen.total_steps(20 * chosen.data.batch) == total
    wanted = {0: 0, warmup // 2: peak / 2, warmup: peak, (warmup + total) // 2: peak / 2, total: 0}
    assert {at: float(rate(at)) for at in wanted} == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("family", ["audioset", "speech_commands", "cola", "simclr"])
def test_recipes_of_a_family_differ_in_the_model_alone(family):
    """And in the weight decay of those with a learned frontend."""
    first, *others = [recipe.find(name)[0] for name in NAMES if name.startswith(family) and name not in OURS]
    assert others
    for other in others:
        decay = first.optimizer.weight_decay
        alike = dataclasses.replace(other.optimizer, weight_decay=decay)
        assert dataclasses.replace(other, name=first.name, model=first.model, optimizer=alike) == first
        assert (other.optimizer.weight_decay == decay) == (other.model.frontend["type"] == "LogMel")


# From the zoo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear_probe", "finetune"])
def test_pretrained_recipes_start_from_a_packaged_model_at_its_native_length(name):
    chosen = recipe.find(name)[0]
    start = zoo.info(chosen.model.start)
    assert chosen.model.start in zoo.list_models() and start.checkpoint is None
    assert chosen.data.seconds == start.window
    entry, model = built(name)
    assert (entry.frontend, entry.network) == (start.frontend, start.network) and model.head.outputs == len(LABELS)


def test_a_linear_probe_trains_the_head_alone():
    chosen = recipe.find("linear_probe")[0]
    model, _ = loop.build(chosen, chosen.entry(LABELS))
    parameters, _ = tree.freeze(model, chosen.optimizer.freeze)
    names = jax.tree.leaves(tree.names(parameters))
    assert sorted(names) == ["head.bias", "head.weight"]
    assert not chosen.objective.mixup and chosen.objective.augment == type(chosen.objective.augment)()
    assert chosen.optimizer.weight_decay == 0


@pytest.mark.parametrize("start", zoo.list_models())
def test_a_probe_of_every_model_of_the_zoo_freezes_its_network(start):
    chosen = recipe.find("linear_probe")[0]
    chosen = dataclasses.replace(chosen, model=dataclasses.replace(chosen.model, start=start))
    model, _ = skeleton(chosen.entry(LABELS))
    names = [name for name, leaf in zip(*map(jax.tree.leaves, (tree.names(model), model)), strict=True) if size(leaf)]
    frozen = [name for name in names if tree.matches(name, chosen.optimizer.freeze)]
    assert len(frozen) > 10
    assert {name.split(".")[0] for name in set(names) - set(frozen)} == {"head"}


def test_fine_tuning_moves_the_network_at_a_tenth_of_the_heads_rate():
    optimizer = recipe.find("finetune")[0].optimizer
    assert optimizer.freeze == ("frontend.*",)
    factors = {"head.weight": 1, "norm.weight": 0.1, "network.stages.0.reduce.norm.bias": 0.1, "frontend.gabor": 0.1}
    factors["network.stages.0.conv.up"] = 1
    assert {name: step._factor(name, optimizer.rates) for name in factors} == factors


# The command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_prepares_and_trains(name, trained, monkeypatch):
    rates, given = set(), commands(name)

    def prepare(manifest, out, *, sample_rate, **_):
        rates.add((str(out), sample_rate))
        return {"examples": 0, "seconds": 0.0, "labels": []}

    monkeypatch.setattr(command.records, "prepare", prepare)
    for words in given:
        if words[1] not in ("save", "evaluate"):
            assert command.main(words[1:]) == 0
    assert [words[1] for words in given][:1] == ["prepare"]
    assert trained and all(words[1] in ("prepare", "cross-validate", "save", name) for words in given)
    for chosen, data, out in trained:
        assert out.parts[0] == "runs"
        if chosen.model.start is None or chosen.model.start in zoo.list_models():  # a run's folder is not here
            assert (str(data), chosen.entry(LABELS).sample_rate) in rates
            if chosen.model.start is not None and zoo.info(chosen.model.start).classes:  # encoders hear any length
                assert chosen.data.seconds == zoo.info(chosen.model.start).window
    assert re.search(r"`files(,labels)?(,\w+)*`|files/;1s/category/labels", text(name))
    if recipe.find(name)[0].data.hold_out:
        assert recipe.find(name)[0].data.hold_out in text(name)


def options(value, path=""):
    """The command line's option for each field, as its help writes it."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    elif isinstance(value, dict) and value:
        fields = value
    else:
        return [f"--{path}"]
    return [
        option
        for name, each in fields.items()
        for option in options(each, f"{path}.{name}".lstrip(".").replace("_", "-"))
    ]


@pytest.mark.parametrize("name", ["audioset_leaf", "cola_convnext_tiny", "finetune"])
def test_help_lists_every_field(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main([name, "--help"])
    shown = set(re.findall(r"--[a-z0-9.-]+", capsys.readouterr().out))
    known = set(options(recipe.find(name)[0]))
    assert {"--optimizer.learning-rate", "--model.dropout", "--run.seed", "--objective.augment.frames"} < known
    chosen = recipe.find(name)[0].model
    empty = {f"--model.{each}" for each in ("frontend", "network") if not getattr(chosen, each)}  # of what starts
    assert known - empty <= shown


def test_options_change_what_is_trained_and_nothing_else(trained):
    words = "--optimizer.learning-rate 1e-4 --data.batch 64 --data.no-balanced --objective.mixup 0 "
    words += "--objective.augment.bins 4 --run.precision float32 --model.network.type resnet34 --run.steps 7 "
    words += "--data.hold-out None"
    assert command.main(["audioset_resnet18", "data", "out", *words.split()]) == 0
    ((chosen, data, out),) = trained
    assert (data, out) == (pathlib.Path("data"), pathlib.Path("out"))
    base = recipe.find("audioset_resnet18")[0]
    assert chosen == dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, network={"type": "resnet34"}),
        data=dataclasses.replace(base.data, batch=64, balanced=False, hold_out=None, held_out=()),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=1e-4),
        objective=dataclasses.replace(
            base.objective, mixup=0.0, augment=dataclasses.replace(base.objective.augment, bins=4)
        ),
        run=dataclasses.replace(base.run, precision="float32", steps=7),
    )
    assert size(skeleton(chosen.entry(LABELS))[0].network) > 21e6


def test_patterns_of_parameters_are_options(trained):
    freeze, rates = ["network.stages.0.*", "frontend.*"], ["network.*", "0.3", "head.*", "2"]
    words = ["--optimizer.freeze", *freeze, "--optimizer.rates", *rates, "--model.start", "ast_audioset"]
    assert command.main(["finetune", "data", "out", *words, "--data.seconds", "10.24"]) == 0
    chosen = trained[0][0]
    assert chosen.optimizer.freeze == tuple(freeze)
    assert chosen.optimizer.rates == (("network.*", 0.3), ("head.*", 2.0))
    entry = chosen.entry(LABELS)
    assert (entry.network["type"], entry.window, entry.classes) == ("ast_base", 10.24, 35)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_without_options_is_the_file_itself(name, trained):
    assert command.main([name, "data", "out"]) == 0
    assert trained[0][0] == recipe.find(name)[0]
    assert trained[0][0].to_json() == recipe.find(name)[0].to_json()


# A user's own ---------------------------------------------------------------------------------------------------------

OWN = """
import dataclasses

from train import recipe as recipes


def objective(model, state, batch, keys):
    return 0.0, state


recipe = dataclasses.replace(recipes.find("fsdd")[0], name="mine", objective=objective)
"""


def test_a_file_is_a_recipe(tmp_path, trained):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    assert command.main([str(path), "data", "out", "--data.batch", "32"]) == 0
    chosen = trained[0][0]
    assert (chosen.name, chosen.data.batch, chosen.objective.__name__) == ("mine", 32, "objective")
    assert '"objective": "def objective(' in chosen.to_json()
    assert chosen.model == recipe.find("fsdd")[0].model


@pytest.mark.parametrize("content", [None, "", "recipe = 'fsdd'", "from train.recipe import Recipe as recipe"])
def test_what_is_no_recipe_gets_one_sentence(content, tmp_path, trained, capsys):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    assert command.main([str(path), "data", "out"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("audax-train: ") and captured.err.count("\n") == 1 and not captured.out
    assert str(path) in captured.err and not trained
    assert ("There is no recipe" if content is None else "has no `recipe = Recipe(...)`") in captured.err


def test_an_unknown_name_gets_all_names(capsys):
    assert command.main(["audioset_resnet19", "data", "out"]) == 2
    error = capsys.readouterr().err
    assert "'audioset_resnet19'" in error and all(name in error for name in NAMES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.batch", "0"], "batch"),
        (["--data.held-out"], "by their column 'index' and by no value of it"),
        (["--data.seconds", "0"], "crops of some seconds"),
    ],
)
def test_numbers_that_make_no_sense_get_one_sentence(words, said, trained, capsys):
    try:
        code = command.main(["fsdd", "data", "out", *words])
    except SystemExit as exit:  # tyro's own
        code = exit.code
    assert code == 2 and not trained
    assert said in " ".join(capsys.readouterr().err.split())
