"""`thaw` and what becomes of it: the head, the entry beside it, and the folder and card that they are saved as."""

import dataclasses
import json

import equinox as eqx
import jax
import numpy as np
import pytest

import zoo
from audax_eqx.models import COLA, Classifier
from zoo._card import front_matter
from zoo._entry import from_json, to_json

KEY = jax.random.key(0)
BASE = zoo.Entry(
    name="owner/base",
    frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 80},
    network={"type": "ConvNeXt", "depths": (0,), "widths": (4,)},
    model={"type": "Classifier", "norm": 1e-3},
    dropout=0.25,
    classes=3,
    task="multilabel",
    window=2.0,
    labels=("a", "b", "c"),
    license="CC-BY-4.0",
    source="taken from a tape",
    paper="https://arxiv.org/abs/1234.56789",
    metrics=({"dataset": "AudioSet", "metric": "mAP", "value": 0.471, "source": "the publisher"},),
    checkpoint=zoo.Checkpoint(repo="owner/base-on-the-hub", table="none"),
)
WAVE = np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)


def pretrained(**fields):
    entry = dataclasses.replace(BASE, **fields)
    model, state = zoo.create(entry, key=KEY)
    return zoo.Pretrained(eqx.nn.inference_mode(model), state, entry)


def contrastive():
    return pretrained(
        name="encoder", model={"type": "COLA", "width": 6}, classes=0, labels=(), task="contrastive", dropout=0.0
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A fine-tune of the multilabel model for one label a clip, saved in one call and loaded."""
    folder = tmp_path_factory.mktemp("finetuned") / "mine"
    thawed = pretrained().thaw(labels=["rain", "clock"], task="multiclass", window=0.5, name="mine", key=KEY)
    model, state = thawed
    zoo.save(folder, model, state, thawed.entry)
    return folder, thawed, zoo.load(folder, verify=True)


def test_what_thaw_gives_is_saved_and_served_as_it_was_trained(saved):
    _, thawed, clip = saved
    assert clip.entry == thawed.entry and clip.labels == ("rain", "clock")
    top = clip.top(WAVE)
    assert {label for label, _ in top} == {"rain", "clock"}
    logits = np.asarray(clip(WAVE), np.float64)
    np.testing.assert_allclose(clip.probabilities(WAVE), np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def test_the_entry_has_what_was_said_and_nothing_that_is_the_bases_own(saved):
    entry = saved[1].entry
    assert (entry.name, entry.classes, entry.task, entry.window) == ("mine", 2, "multiclass", 0.5)
    assert (entry.frontend, entry.network, entry.model) == (BASE.frontend, BASE.network, BASE.model)
    assert (entry.metrics, entry.paper, entry.checkpoint) == ((), None, None)
    assert entry.license == BASE.license and entry.source == "fine-tuned from owner/base"
    base = {"name": BASE.name, "repo": "owner/base-on-the-hub", "license": BASE.license, "paper": BASE.paper}
    assert entry.base == base
    assert from_json(to_json(entry), "text") == entry


def test_the_card_says_where_it_started_and_claims_no_result(saved):
    folder, thawed, _ = saved
    card, facts = (folder / "README.md").read_text(), front_matter(thawed.entry)
    assert facts["base_model"] == "owner/base-on-the-hub" and facts["license"] == "cc-by-4.0"
    assert "datasets" not in facts and "model-index" not in facts
    assert "It started from `owner/base`, [owner/base-on-the-hub](https://huggingface.co/owner/base-on-the-hub)" in card
    assert "Its licence: CC-BY-4.0." in card and BASE.paper in card and "windows of 0.5 s" in card
    assert "tape" not in card and "0.471" not in card and "cite" not in card


def test_a_fine_tune_of_a_fine_tune_names_both(saved):
    again = saved[2].thaw(key=KEY).entry
    assert (again.labels, again.task, again.window) == (("rain", "clock"), "multiclass", 0.5)
    assert again.base["name"] == "mine" and again.repo == "owner/base-on-the-hub"


def test_a_card_without_a_known_base_on_the_hub_names_none():
    entry = pretrained(checkpoint=None, license=None, paper=None).thaw(classes=2, task="multiclass", key=KEY).entry
    assert entry.base == {"name": "owner/base"} and "base_model" not in front_matter(entry)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("make", [contrastive, pretrained], ids=["contrastive", "classifier"])
def test_a_fresh_head_has_the_task_that_was_said(make, task):
    clip = make()
    model, _ = thawed = clip.thaw(labels=("x", "y"), task=task, key=KEY)
    assert isinstance(model, Classifier) and model.task == thawed.entry.task == task and model.classes == 2
    assert thawed.entry.model["type"] == "Classifier" and thawed.entry.classes == 2


def test_from_an_encoder_it_takes_one_call(tmp_path):
    clip = contrastive()
    thawed = clip.thaw(labels=("x", "y"), key=KEY)
    zoo.save(tmp_path / "mine", *thawed, thawed.entry)
    loaded = zoo.load(tmp_path / "mine")
    assert loaded.entry.task == "multiclass" and sum(value for _, value in loaded.top(WAVE)) == pytest.approx(1)
    assert "without labels" not in (tmp_path / "mine" / "README.md").read_text()
    assert isinstance(clip.thaw(key=KEY)[0], COLA) and clip.thaw(key=KEY).entry.task == "contrastive"


def test_a_fresh_head_keeps_the_norm_and_dropout_in_front_of_it():
    clip = pretrained()
    clip = eqx.tree_at(lambda each: each.model.norm.weight, clip, np.arange(4.0, dtype=np.float32))
    model, _ = clip.thaw(classes=5, task="multilabel", key=KEY)
    assert model.dropout.p == 0.25 and model.norm.eps == 1e-3
    np.testing.assert_array_equal(model.norm.weight, np.arange(4.0))
    model, _ = clip.thaw(task="multiclass", key=KEY)
    np.testing.assert_array_equal(model.head.weight, clip.model.head.weight)
    np.testing.assert_array_equal(model.norm.weight, np.arange(4.0))
    assert model.task == "multiclass"


def test_a_fresh_head_on_a_multilabel_model_warns_until_its_task_is_said(recwarn):
    clip = pretrained()
    with pytest.warns(UserWarning, match=r'owner/base is multilabel.*taken for multiclass.*task="multilabel"'):
        model, _ = clip.thaw(classes=2, key=KEY)
    assert model.task == "multiclass"
    recwarn.clear()
    for keywords in ({"classes": 2, "task": "multilabel"}, {"labels": ("x", "y"), "task": "multiclass"}, {}):
        clip.thaw(**keywords, key=KEY)
    contrastive().thaw(classes=2, key=KEY)
    pretrained(task="multiclass").thaw(classes=2, key=KEY)
    assert not recwarn.list


def test_a_head_is_not_saved_under_another_task(tmp_path):
    clip = pretrained()
    model, state = clip.thaw(classes=2, task="multiclass", key=KEY)
    entry = dataclasses.replace(clip.entry, name="mine", classes=2, labels=("x", "y"), metrics=())
    fault = r"is multiclass, and its entry is multilabel: .*thawed\.entry.*thaw\(.*task='multilabel'\)"
    with pytest.raises(ValueError, match=fault):
        zoo.save(tmp_path / "mine", model, state, entry)
    with pytest.raises(ValueError, match=fault):
        zoo.publish("user/mine", model, state, entry, dry_run=True)
    assert not (tmp_path / "mine").exists()


def test_a_classifier_built_by_hand_has_the_task_of_the_entry_that_is_given(tmp_path):
    clip = pretrained()
    model, state = eqx.nn.make_with_state(
        lambda: Classifier(clip.model.frontend, clip.model.network, 3, norm=1e-3, key=KEY)
    )()
    zoo.save(tmp_path / "mine", model, state, clip.entry)
    assert zoo.load(tmp_path / "mine").model.task == "multilabel"


@pytest.mark.parametrize(
    "keywords, fault",
    [
        ({"labels": "rain"}, r"names of all classes.*got 'rain'"),
        ({"labels": ()}, r"names of all classes.*got \(\)"),
        ({"labels": [0, 1]}, r"names of all classes.*got \[0, 1\]"),
        ({"labels": ("a", "b", "a")}, "each class once, got a several"),
        ({"labels": ("a", "b\n")}, "control characters"),
        ({"labels": ("a", "b"), "classes": 3}, "3 classes and 2 labels"),
        ({"classes": 0}, "0 classes"),
        ({"classes": -1}, "-1"),
        ({"window": 0.0}, "window"),
        ({"window": float("nan")}, "window"),
        ({"task": "regression"}, "task is one of multiclass, multilabel, contrastive, embedding, got 'regression'"),
        ({"classes": 2, "task": "contrastive"}, "contrastive"),
        ({"name": "a\nb"}, "control characters"),
    ],
)
def test_what_does_not_go_together_is_told_before_training(keywords, fault):
    with pytest.raises(ValueError, match=fault) as raised:
        pretrained(task="multiclass").thaw(**keywords, key=KEY)
    assert "\n" not in str(raised.value)


def test_an_encoder_without_classes_has_no_task_of_labels():
    with pytest.raises(ValueError, match="COLA with 0 classes and the task 'multiclass'"):
        contrastive().thaw(task="multiclass", key=KEY)


@pytest.mark.parametrize("base", [{"repo": "owner/x"}, {"name": 3}, {"name": "x", "license": ["MIT"]}, "x", []])
def test_a_config_with_another_base_is_one_sentence(base):
    with pytest.raises(ValueError, match="text") as raised:
        from_json(json.dumps(json.loads(to_json(BASE.finetuned())) | {"base": base}), "text")
    assert "\n" not in str(raised.value)


def test_an_entry_is_replaced_field_by_field():
    metrics = ({"dataset": "d", "metric": "accuracy", "value": 0.9, "source": "mine"},)
    entry = BASE.finetuned(name="mine").replace(metrics=metrics, license="MIT")
    assert (entry.name, entry.metrics, entry.license, entry.base["license"]) == ("mine", metrics, "MIT", "CC-BY-4.0")


@pytest.mark.parametrize("labels", [{"rain", "clock"}, frozenset("ab"), {"b": 1, "a": 0}])
def test_labels_without_an_order_are_refused(labels):
    with pytest.raises(
        ValueError, match=r"labels are in the order of the head's outputs, and a .* has no order: give a list"
    ):
        pretrained().thaw(labels=labels, task="multiclass", key=KEY)


@pytest.mark.parametrize("window", [0.01, 30.0])
def test_a_window_that_the_frontend_does_not_hear_is_refused_before_training(window, tmp_path):
    fbank = {"type": "ast_fbank", "sample_rate": 16000, "bins": 16, "frames": 32}
    network = {"type": "AST", "width": 4, "depth": 1, "heads": 1, "bins": 16, "frames": 32}
    clip = pretrained(frontend=fbank, network=network, window=0.3)
    with pytest.raises(ValueError, match=f"hears windows from 0.025 s to 0.34.* s, got {window:g} s"):
        clip.thaw(labels=("a", "b"), task="multiclass", window=window, key=KEY)
    with pytest.raises(ValueError, match="hears windows from"):
        zoo.save(tmp_path / "x", clip.model, clip.state, clip.entry.replace(window=window, checkpoint=None))


def test_a_folder_that_describes_itself_is_no_repo():
    local = dataclasses.replace(BASE, name="ast", source=None, checkpoint=zoo.Checkpoint(repo="ast", table="ast"))
    assert local.repo is None and "repo" not in local.finetuned(labels=["a"], task="multiclass").base
