"""Recipes: the models that they build and the numbers that they train with."""

import dataclasses

import equinox as eqx
import jax
import pytest
from recipes import LABELS, NAMES, OURS, build, size

import zoo
from audax_eqx import tree
from train import loop, recipe, step
from train.objectives import Matching, NTXent, Supervised, views
from zoo._create import skeleton

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


OBJECTIVES = {"Classifier": Supervised, "COLA": Matching, "SimCLR": NTXent}
AUDIOSET = [name for name in NAMES if name.startswith("audioset")]
SPEECH_COMMANDS = [name for name in NAMES if name.startswith("speech_commands")]
CONTRASTIVE = [name for name in NAMES if name.startswith(("cola", "simclr")) and name not in OURS]


# Models ---------------------------------------------------------------------------------------------------------------


def test_all_recipes_are_there():
    assert set(NAMES) == {*EXPECTED, *OURS}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_model_is_the_one_it_is_named_after(name):
    frontend, network, head = EXPECTED[name]
    entry, model = build(name)
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
    chosen, (entry, model) = recipe.find(name)[0], build(name)
    assert entry.window == chosen.data.seconds
    wave = jax.ShapeDtypeStruct((round(chosen.data.seconds * entry.sample_rate),), "float32")
    frames, bins = eqx.filter_eval_shape(lambda frontend, wave: frontend(wave), model.frontend, wave).shape
    assert bins == model.frontend.bins and frames in (50 * entry.window + 1, 100 * entry.window + 1, 100 * entry.window)


@pytest.mark.parametrize("name", ["speech_commands_resnet18", "cola_convnext_tiny", "simclr_efficientnet_b0"])
def test_networks_take_the_shortest_crops(name):
    entry, model = build(name)
    state = skeleton(entry)[1]
    wave = jax.ShapeDtypeStruct((round(entry.window * entry.sample_rate),), "float32")
    outputs, _ = eqx.filter_eval_shape(lambda *given: given[0](*given[1:]), eqx.nn.inference_mode(model), wave, state)
    assert outputs.shape == (model.classes if entry.classes else model.width,)


@pytest.mark.parametrize("name", NAMES)
def test_objective_head_and_metric_fit_each_other(name):
    chosen, (entry, model) = recipe.find(name)[0], build(name)
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
    _, model = build("audioset_resnet18")
    ours = {field.name: getattr(model.frontend, field.name) for field in dataclasses.fields(model.frontend)}
    expected = {"sample_rate": 16000, "bins": 64, "n_fft": 1024, "win_length": 400, "hop_length": 160, "power": 2.0}
    expected |= {"f_min": 60.0, "f_max": 7800.0, "mel_scale": "htk", "norm": None, "log": "natural", "floor": 1e-8}
    assert ours | expected | {"framing": "center"} == ours


@pytest.mark.parametrize("name", [*AUDIOSET, *SPEECH_COMMANDS, *CONTRASTIVE, "voxceleb"])
def test_all_at_16_khz_hear_64_bins(name):
    entry, model = build(name)
    assert entry.sample_rate == 16000 and model.frontend.bins == 64
    if entry.frontend["type"] == "LogMel":
        assert entry.frontend == build("audioset_resnet18")[0].frontend
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
    assert build(name)[1].dropout.p == 0.4
    assert (chosen.data.hold_out, chosen.data.held_out) == ("split", ("eval",))


@pytest.mark.parametrize("name", SPEECH_COMMANDS)
def test_speech_commands_numbers_are_audaxs(name):
    chosen = recipe.find(name)[0]
    assert (chosen.data.seconds, chosen.data.batch, chosen.objective.task) == (1.0, 1024, "multiclass")
    assert (chosen.data.hold_out, chosen.data.held_out) == ("split", ("testing",))
    assert (chosen.optimizer.learning_rate, chosen.run.epochs, chosen.model.dropout) == (5e-4, 50, 0.4)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_contrastive_numbers_are_audaxs(name):
    chosen, (_, model) = recipe.find(name)[0], build(name)
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
    expected = {0: 0, warmup // 2: peak / 2, warmup: peak, (warmup + total) // 2: peak / 2, total: 0}
    assert {at: float(rate(at)) for at in expected} == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("family", ["audioset", "speech_commands", "cola", "simclr"])
def test_recipes_of_a_family_differ_in_the_model_alone(family):
    """And in the weight decay of those with a learned frontend."""
    first, *others = [recipe.find(name)[0] for name in NAMES if name.startswith(family) and name not in OURS]
    assert others
    for other in others:
        decay = first.optimizer.weight_decay
        optimizer = dataclasses.replace(other.optimizer, weight_decay=decay)
        assert dataclasses.replace(other, name=first.name, model=first.model, optimizer=optimizer) == first
        assert (other.optimizer.weight_decay == decay) == (other.model.frontend["type"] == "LogMel")


# From the zoo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear_probe", "finetune"])
def test_pretrained_recipes_start_from_a_packaged_model_at_its_native_length(name):
    chosen = recipe.find(name)[0]
    start = zoo.info(chosen.model.start)
    assert chosen.model.start in zoo.list_models() and start.checkpoint is None
    assert chosen.data.seconds == start.window
    entry, model = build(name)
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
