"""What a model's folder tells of itself: its card, its frontend's numbers, and its golden output."""

import dataclasses
import json
import re

import hub
import jax
import numpy as np
import pytest
from hub import TINY, sentence
from huggingface_hub import ModelCard

import zoo
from zoo._card import front_matter, is_generated

clip, copy, folder = hub.clip, hub.copy, hub.folder


# What a folder tells of itself


def test_the_card_is_what_the_hub_reads(folder):
    text = (folder / "README.md").read_text()
    card = ModelCard(text).data
    assert (card.license, card.library_name, card.pipeline_tag) == ("mit", "audax-eqx", "audio-classification")
    assert (card.base_model, card.datasets) == ("owner/original", ["agkphysics/AudioSet"])
    (result,) = card.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("AudioSet", "mAP", 0.25)
    assert (result.source_name, result.source_url) == ("the publisher, owner/original", TINY.source)
    for part in ("| AudioSet | mAP | 0.25 | the publisher, owner/original |", "a, b, c", TINY.paper, "Licence: MIT"):
        assert part in text


def test_the_card_of_an_unusual_model_is_yaml_too(clip, tmp_path):
    fields = {
        "license": "My own: 'one' #2",
        "source": "https://huggingface.co/datasets/a/b",
        "paper": None,
        "labels": (),
    }
    metrics = ({"dataset": 'ESC "10": a|b', "metric": "accuracy", "value": 1, "source": "this project: 4 folds"},)
    entry = dataclasses.replace(TINY, name="été: [1]", metrics=metrics, **fields)
    zoo.save(tmp_path / "model", clip.model, clip.state, entry)
    card = ModelCard.load(tmp_path / "model" / "README.md").data
    assert (card.license, card.license_name) == ("other", "my-own-one-2")
    assert card.base_model is None and card.datasets is None
    (result,) = card.eval_results
    assert (card.model_name, result.dataset_name, result.source_url) == ("été: [1]", 'ESC "10": a|b', None)
    assert result.metric_value == 1 and "this project: 4 folds" in result.metric_name
    assert "a\\|b" in (tmp_path / "model" / "README.md").read_text()


def test_a_contrastive_models_card_and_golden_output(tmp_path):
    fields = {"model": {"type": "COLA", "width": 5}, "classes": 0, "task": "contrastive", "labels": (), "metrics": ()}
    entry = dataclasses.replace(TINY, **fields)
    zoo.save(tmp_path / "model", *zoo.create(entry, key=jax.random.key(0)), entry)
    assert ModelCard.load(tmp_path / "model" / "README.md").data.pipeline_tag == "feature-extraction"
    assert "clip.embed(zoo.read(" in (tmp_path / "model" / "README.md").read_text()
    assert zoo.load(tmp_path / "model", verify=True).model.width == 5


def test_the_frontends_numbers_are_in_transformers_words(folder):
    numbers = json.loads((folder / "preprocessor_config.json").read_text())
    expected = {"sampling_rate": 8000, "feature_size": 16, "n_fft": 256, "win_length": 256, "hop_length": 80}
    expected |= {"f_min": 0.0, "f_max": 4000.0, "chunk_length": 0.5, "n_samples": 4000, "padding_value": 0.0}
    assert expected.items() <= numbers.items()
    assert numbers["feature_extractor_type"] == "LogMel"


def test_a_card_that_somebody_wrote_is_kept_and_a_generated_one_renewed(clip, copy):
    before = (copy / "README.md").read_bytes()
    assert is_generated(before) and is_generated(before.replace(b"\n", b"\r\n"))
    newer = dataclasses.replace(TINY, license="Apache-2.0")
    zoo.save(copy, clip.model, clip.state, newer)
    assert b"apache-2.0" in (copy / "README.md").read_bytes()
    for mine in (b"# Mine\n", (copy / "README.md").read_bytes().replace(b"# tiny", b"# Tiny, on 3 GPUs"), b"\xff\n"):
        (copy / "README.md").write_bytes(mine)
        zoo.save(copy, clip.model, clip.state, TINY)
        assert (copy / "README.md").read_bytes() == mine
    assert zoo.load(copy).entry == TINY


# The golden output


def test_a_verified_model_gives_its_golden_output(folder, copy, clip):
    from safetensors.numpy import load_file

    golden = load_file(folder / "golden.safetensors")
    assert {name: (array.dtype, array.shape) for name, array in golden.items()} == {
        "wave": (np.float32, (4000,)),
        "output": (np.float32, (3,)),
    }
    other = zoo.load(folder, verify=True)
    np.testing.assert_allclose(other(golden["wave"]), golden["output"], rtol=1e-5)
    # Of float16 weights it is the output of the rounded ones, in float32
    zoo.save(copy, clip.model, clip.state, TINY, dtype="float16")
    half = load_file(copy / "golden.safetensors")
    np.testing.assert_allclose(zoo.load(copy, verify=True)(half["wave"]), half["output"], rtol=1e-5)
    assert 0 < np.abs(half["output"] - golden["output"]).max() < 1e-2 * np.abs(golden["output"]).max()


def change_golden(**arrays):
    """A change of the golden file; None takes an array away."""
    from safetensors.numpy import load_file, save_file

    def change(folder):
        file = load_file(folder / "golden.safetensors")
        changes = {name: make(file.get(name)) for name, make in arrays.items()}
        result = {name: array for name, array in (file | changes).items() if array is not None}
        save_file(result, folder / "golden.safetensors")

    return change


@pytest.mark.parametrize(
    "change, part",
    [
        (lambda folder: (folder / "golden.safetensors").unlink(), "has no golden.safetensors to verify it by"),
        (
            change_golden(output=lambda output: output * (1 + 3e-4)),
            "does not give its golden output: it differs by 3.0e-04",
        ),
        (change_golden(output=lambda output: output * np.float32(np.nan)), "does not give its golden output"),
        (change_golden(output=lambda output: output[:2].copy()), "holds 2 outputs and the model gives 3"),
        (change_golden(wave=lambda wave: wave[:100].copy()), "a wave of 100 samples, too short"),
        (change_golden(wave=lambda wave: wave / np.float32(0)), "does not hold the float32 arrays"),
        (change_golden(wave=lambda wave: wave.astype(np.float64)), "does not hold the float32 arrays"),
        (change_golden(output=lambda output: None), "does not hold the float32 arrays"),
        (change_golden(tail=lambda _: np.zeros(1, np.float32)), "does not hold the float32 arrays"),
    ],
)
def test_what_cannot_be_verified_raises_one_sentence(copy, change, part):
    with np.errstate(divide="ignore", invalid="ignore"):
        change(copy)
    assert zoo.load(copy).labels == TINY.labels
    with pytest.raises(ValueError) as raised:
        zoo.load(copy, verify=True)
    sentence(("ValueError", str(raised.value)), "ValueError", part)


def test_the_packaged_model_verifies():
    assert zoo.load("resnet_esc10", verify=True).entry.license == "Apache-2.0"


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_card_names_whole_addresses_and_what_it_was_made_from(name):
    entry = zoo.info(name)
    facts = front_matter(entry)
    assert ("model-index" in facts) == bool(entry.metrics)
    results = facts["model-index"][0]["results"] if entry.metrics else []
    addresses = [result["source"]["url"] for result in results if "source" in result]
    assert all(re.fullmatch(r"https://\S+", address) for address in addresses)
    if entry.checkpoint is not None:
        assert facts["base_model"] == entry.checkpoint.repo


@pytest.mark.parametrize("repo", ["a/..", "é/x", "user/a--b", "user/-x", "user/x.", ".user/x", "user/" + 92 * "x"])
def test_a_name_that_the_hub_refuses_is_told_before_anything_is_made(clip, repo):
    with pytest.raises(ValueError, match="published as user/name, got"):
        zoo.publish(repo, clip.model, clip.state, TINY, dry_run=True)
