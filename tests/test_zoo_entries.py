"""Broken folders and entries: one sentence tells what does not fit."""

import dataclasses
import re

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file
from tiny import TINY, rewrite

import zoo

copy, folder = tiny.copy, tiny.folder


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_raises(copy, missing):
    (copy / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"holds no {re.escape(missing)}.*config\.json and model\.safetensors"):
        zoo.load(copy)


@pytest.mark.parametrize(
    "fields, fault",
    [
        ({"colour": "red"}, r"unknown \['colour'\]"),
        ({"frontend": None, "task": None}, r"missing \['frontend', 'task'\]"),
        ({"network": {"type": "Conv2Former"}}, r"'Conv2Former'.*convnext_tiny"),
        ({"network": {"type": "partial"}}, r"'partial'.*convnext_tiny"),
        ({"network": {"type": "BatchNorm"}}, r"'BatchNorm'.*convnext_tiny"),
        ({"network": {"depths": [1]}}, r"None.*convnext_tiny"),
        ({"network": {"type": "convnext_tiny", "dilation": 2}}, "dilation"),
        ({"frontend": {"type": "LogMel", "sample_rate": 16000, "bans": 32}}, "bans"),
        ({"frontend": {"type": "convnext_tiny", "sample_rate": 16000}}, r"'convnext_tiny'.*LogMel"),
        ({"labels": ["a"]}, "3 classes and 1 labels"),
    ],
)
def test_a_config_that_describes_no_model_raises(copy, fields, fault):
    rewrite(copy / "config.json", **fields)
    with pytest.raises(ValueError, match=fault):
        zoo.load(copy)


@pytest.mark.parametrize(
    "fields, fault",
    [
        ({"classes": "3"}, "classes"),
        ({"task": "multi"}, "multi"),
        ({"network": {**TINY.network, "pool": "sum"}}, "sum"),
        ({"network": {**TINY.network, "widths": "wide"}}, "wide"),
        ({"frontend": {"type": "LogMel"}}, "sample_rate"),
        ({"frontend": {"type": "LogMel", "sample_rate": "16 kHz"}}, "sample_rate"),
        ({"frontend": "LogMel"}, "frontend"),
    ],
)
def test_a_config_with_a_wrong_type_raises_one_plain_sentence(copy, fields, fault):
    rewrite(copy / "config.json", **fields)
    with pytest.raises(ValueError, match=fault) as raised:
        zoo.load(copy)
    assert "\n" not in str(raised.value)


def test_a_window_of_whole_seconds_needs_no_decimal_point(copy):
    rewrite(copy / "config.json", window=1)
    assert zoo.load(copy).entry == TINY


@pytest.mark.parametrize("text, fault", [("{not json", "is not JSON"), ("[1, 2]", "holds a list"), ("", "is not JSON")])
def test_a_config_that_is_no_json_object_raises(copy, text, fault):
    (copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json {fault}"):
        zoo.load(copy)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
def test_a_cut_weight_file_raises(copy, keep):
    path = copy / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file.*again"):
        zoo.load(copy)


def test_missing_surplus_and_misshapen_weights_are_listed_at_once(copy):
    arrays = load_file(copy / "model.safetensors")
    del arrays["head.bias"]
    del arrays["network.input_norm.running_var"]
    arrays["tail.bias"] = np.zeros(3, np.float32)
    arrays["head.weight"] = np.zeros((5, 7), np.float32)
    save_file(arrays, copy / "model.safetensors")
    with pytest.raises(ValueError) as raised:
        zoo.load(copy)
    for part in (
        "copy/model.safetensors",
        "head.bias is missing",
        "network.input_norm.running_var is missing",
        "tail.bias is surplus",
        "head.weight is (5, 7) instead of (",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize("fields", [{"window": 0.0}, {"classes": -1, "labels": ()}, {"frontend": {"type": "LogMel"}}])
def test_an_entry_needs_sizes_that_make_sense(fields):
    with pytest.raises(ValueError, match="needs a frontend with a sample_rate in Hz, classes and a window"):
        dataclasses.replace(TINY, **fields)


@pytest.mark.parametrize("model", ["Classifier", "COLA", "SimCLR", "Encoder", None])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("task", ["multiclass", "multilabel", "contrastive", "embedding"])
def test_a_classifier_has_classes_and_other_models_have_none(model, classes, task):
    fields = {"model": {"type": model}, "classes": classes, "task": task, "labels": ()}
    tasks = {"Classifier": ("multiclass", "multilabel"), "Encoder": ("embedding",)}.get(model, ("contrastive",))
    if task in tasks and (classes == 3) == (model == "Classifier"):
        entry = dataclasses.replace(TINY, **fields)
        assert (entry.model["type"], entry.classes, entry.task) == (model, classes, task)
        assert entry.classifies == (model == "Classifier")
    else:
        with pytest.raises(ValueError, match=f"tiny is a {model} with {classes} classes and the task '{task}': a"):
            dataclasses.replace(TINY, **fields)


@pytest.mark.parametrize(
    "model, fault",
    [
        ({"type": "CLIP"}, r"names 'CLIP', which is not in audax_eqx\.models: it has .*COLA, .*Classifier, .*SimCLR"),
        ({"type": "COLA", "widht": 8}, "options that COLA does not take.*widht"),
        ({"type": "COLA", "similarity": "cosine"}, "COLA an option that makes no sense to it.*cosine"),
        ({"type": "SimCLR", "temperature": 0.0}, "temperature, which must be > 0"),
        ({"type": "SimCLR", "classes": 3}, "options that SimCLR does not take.*classes"),
        ({"type": "COLA", "frontend": 3}, "gives COLA frontend, which the entry itself decides"),
    ],
)
def test_a_config_whose_model_cannot_be_built_raises(copy, model, fault):
    rewrite(copy / "config.json", model=model, classes=0, task="contrastive", labels=None)
    with pytest.raises(ValueError, match=fault) as raised:
        zoo.load(copy)
    assert "\n" not in str(raised.value)


def test_a_classifiers_own_options_are_the_entrys(copy):
    rewrite(copy / "config.json", model={"type": "Classifier", "classes": 5})
    with pytest.raises(ValueError, match="gives Classifier classes, which the entry itself decides"):
        zoo.load(copy)


def test_a_revision_of_a_folder_makes_no_sense(folder):
    with pytest.raises(ValueError, match="is a folder: leave it out"):
        zoo.load(folder, revision="main")
