"""PANNs' checkpoints: four files in a stand-in for the Hub's cache, against their publisher's code."""

import dataclasses
import functools
import importlib.util
import json

import equinox as eqx
import huggingface_hub.constants
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import zoo
from zoo._leaves import named_leaves

WIDTHS = {"cnn14": 2048, "cnn10": 512, "resnet22": 2048, "mobilenetv2": 1024}
METRICS = {"cnn14": 0.431, "cnn10": 0.380, "resnet22": 0.430, "mobilenetv2": 0.383}


def error(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@functools.cache
def seeded(oracle):
    """The arrays of a published file, seeded in place of trained, and the name of its repo."""
    spec = importlib.util.spec_from_file_location("shared_seeded", oracle.parent / "seeded.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    keys = json.loads((oracle / "keys.json").read_text())
    arrays = module.seeded_state(keys["keys"], keys["salt"])
    mean, var = "backbone.bn0.running_mean", "backbone.bn0.running_var"
    arrays[mean], arrays[var] = (-45 + 5 * arrays[mean]).astype(np.float32), (200 * arrays[var]).astype(np.float32)
    return arrays | {key: np.zeros(shape, np.float32) for key, shape in keys["frontend_keys"].items()}, keys["hub_repo"]


@pytest.fixture
def cached(shared, tmp_path, monkeypatch):
    """The function that lays a network's file into a cache that takes the place of the Hub's and has the labels."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def snapshot(repo, commit):
        folder = tmp_path / f"models--{repo.replace('/', '--')}"
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
        return folder / "snapshots" / commit

    labels = (shared / "oracles" / "audioset_class_labels_indices.csv").read_bytes()
    (snapshot("topel/ConvNeXt-Tiny-AT", "1" * 40) / "class_labels_indices.csv").write_bytes(labels)

    def lay(name, **changed):
        arrays, repo = seeded(shared / "oracles" / f"panns_{name}")
        save_file(
            {key: array for key, array in (arrays | changed).items() if array is not None},
            snapshot(repo, "2" * 40) / "model.safetensors",
        )
        return arrays

    yield lay
    seeded.cache_clear()


@eqx.filter_jit
def stages(clip, wave):
    """Embedding and probabilities, by one run of the network; by tests/test_zoo_calls.py `clip(wave)` is no other."""
    embedding = clip.embed(wave)
    return embedding, jax.nn.sigmoid(clip.model.head(embedding))


@pytest.mark.parametrize("name", WIDTHS)
def test_panns_agree_with_their_publishers_code(cached, shared, name):
    cached(name)
    clip = zoo.load(f"panns_{name}_audioset")
    with np.load(shared / "oracles" / f"panns_{name}" / "golden.npz") as golden:
        wave, embedding, probabilities = (golden[key] for key in ("wave", "embedding", "probabilities"))
    ours = stages(clip, wave)
    assert clip.model.network.width == WIDTHS[name] == embedding.size
    assert error(ours[0], embedding) < 1e-4
    assert error(ours[1], probabilities) < 1e-4
    step = 16 if name == "cnn10" else 32  # hops of 10 ms
    assert eqx.filter_eval_shape(clip.frames, wave).shape == (
        501 // step,
        {"mobilenetv2": 1280}.get(name, WIDTHS[name]),
    )
    np.testing.assert_allclose(clip.frame_times(3), (np.arange(3) * step + (step - 1) / 2) * 0.01, rtol=1e-6)
    assert clip.labels[:2] == ("Speech", "Male speech, man speaking") and len(clip.labels) == 527


@pytest.mark.parametrize("name", WIDTHS)
def test_what_is_known_of_panns(name):
    entry = zoo.info(f"panns_{name}_audioset")
    assert (entry.classes, entry.task, entry.sample_rate, entry.window) == (527, "multilabel", 32000, 10.0)
    assert entry.license == "CC-BY-4.0" and entry.checkpoint.license == "Apache-2.0"  # as its mirror says
    (metric,) = entry.metrics
    assert (metric["dataset"], metric["metric"], metric["value"]) == ("AudioSet", "mAP", METRICS[name])
    assert metric["source"].startswith("the publisher")


def test_a_revision_is_of_the_weights_and_not_of_the_labels(cached):
    cached("mobilenetv2")
    clip = zoo.load("panns_mobilenetv2_audioset", revision="2" * 40)
    assert len(clip.labels) == 527
    with pytest.raises(ConnectionError, match=r"model\.safetensors of nicofarr/panns_MobileNetV2 at revision 1111"):
        zoo.load("panns_mobilenetv2_audioset", revision="1" * 40)


def test_a_loaded_model_saves_and_loads_again_and_thaws(cached, tmp_path):
    arrays = cached("mobilenetv2")
    clip = zoo.load("panns_mobilenetv2_audioset")
    zoo.save(tmp_path / "mine", clip.model, clip.state, clip.entry)
    again = zoo.load(tmp_path / "mine")
    assert again.entry == dataclasses.replace(clip.entry, checkpoint=None)
    ours, theirs = (named_leaves(each.model, each.state) for each in (again, clip))
    assert ours.keys() == theirs.keys()
    for leaf in ours:
        np.testing.assert_array_equal(ours[leaf], theirs[leaf])
    np.testing.assert_array_equal(again.model.head.weight, arrays["backbone.fc_audioset.weight"])
    model, _ = clip.thaw(classes=3, key=jax.random.key(0))
    assert model.head.weight.shape == (3, 1024) and not model.network.input_norm.inference


def test_a_file_that_its_table_does_not_read_lists_every_fault(cached):
    faults = {
        "backbone.fc1.bias": None,
        "backbone.features.18.1.running_var": None,
        "backbone.features.19.0.weight": np.zeros(1, np.float32),
        "fc1.bias": np.zeros(1024, np.float32),
        "backbone.features.2.conv.3.weight": np.zeros((96, 1, 5, 3), np.float32),
    }
    cached("mobilenetv2", **faults)
    with pytest.raises(ValueError) as raised:
        zoo.load("panns_mobilenetv2_audioset")
    for part in (
        "network.embed.bias is missing",
        "network.end_norm.running_var is missing",
        "backbone.features.19.0.weight matches 0 rules",
        "fc1.bias matches 0 rules",
        "network.blocks.1.depthwise.weight is (5, 3, 1, 96) instead of (3, 3, 1, 96)",
    ):
        assert part in str(raised.value)
