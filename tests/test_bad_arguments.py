"""Arguments of a wrong kind or size end in one plain sentence, and odd names of files do not break a listing."""

import jax
import numpy as np
import pytest

import zoo
from zoo.__main__ import main

KEY = jax.random.key(0)
NETWORK = {"type": "HTSAT", "depths": (1, 1), "heads": (1, 2), "embedding": 4, "bins": 16, "frames": 41, "image": 32}
WORDS = zoo.Entry(
    name="words",
    frontend={"type": "CLAPLogMel", "sample_rate": 8000, "bins": 16, "hop_length": 80, "f_max": 4000.0, "seconds": 0.4},
    network=NETWORK | {"patch": 2, "window": 4, "projection": 6},
    model={"type": "CLAP", "text": {"type": "RoBERTa", "hidden": 8, "depth": 1, "heads": 2, "words": 4}},
    classes=0,
    task="contrastive",
    window=0.4,
)


@pytest.fixture(scope="module")
def clip():
    return zoo.load("resnet_fsdd")


@pytest.fixture(scope="module")
def words():
    """A small model with words, without a tokenizer."""
    entry = WORDS.replace(model=WORDS.model | {"text": WORDS.model["text"] | {"projection": 6}})
    return zoo.Pretrained(*zoo.create(entry, key=KEY), entry)


def sentence(kind, call):
    """The message of the error that the call raises; it is one sentence."""
    with pytest.raises(kind) as raised:
        call()
    message = str(raised.value)
    assert raised.type is kind and "\n" not in message and message.endswith(".") and len(message) < 300
    return message


@pytest.mark.parametrize("labels", [None, 5, 1.5])
def test_labels_that_are_no_list_are_refused_by_zero_shot(words, labels):
    assert f'the names of all classes, such as ("rain", "clock"), got {labels}' in sentence(
        ValueError, lambda: words.zero_shot(labels)
    )


@pytest.mark.parametrize("labels", [5, object, True])
def test_labels_that_are_no_list_are_refused_by_thaw(clip, labels):
    assert "labels are the names of all classes" in sentence(ValueError, lambda: clip.thaw(labels=labels, key=KEY))
    assert "labels are the names of all classes" in sentence(ValueError, lambda: clip.entry.finetuned(labels=labels))


@pytest.mark.parametrize("layer", [99, -99])
def test_a_layer_that_the_network_lacks_is_refused(clip, layer):
    message = sentence(ValueError, lambda: clip.frame_times(3, layer=layer))
    assert f"resnet_fsdd has no layer {layer}: give a valid index of clip.layers(wave)" in message


def test_a_long_label_and_a_long_prompt_are_refused_as_such_with_the_limit(clip, words):
    message = "labels have at most 1000 letters each, got one of 1001: shorten it."
    assert sentence(ValueError, lambda: words.zero_shot(["rain", "x" * 1001])) == message
    assert sentence(ValueError, lambda: clip.thaw(labels=["x" * 1001], key=KEY)) == message
    message = "prompt is too long: it has 1002 letters, and up to 1000 are allowed."
    assert sentence(ValueError, lambda: words.zero_shot(["rain"], "x" * 1000 + "{}")) == message


def test_a_name_with_an_end_of_line_takes_one_line_in_the_listing_of_a_search(capsys, tmp_path):
    rng = np.random.default_rng(0)
    width = zoo.load("resnet_fsdd").model.network.width
    rows = {"files": np.array(["two\nlines.wav", "plain.wav"]), "starts": np.zeros(2), "ends": np.ones(2)}
    np.savez(tmp_path / "rows.npz", **rows, embeddings=rng.standard_normal((2, width)).astype(np.float32))
    assert main(["search", str(tmp_path / "rows.npz"), str(zoo.example()), "--model", "resnet_fsdd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and {line.split()[-1] for line in lines} == {r"two\nlines.wav", "plain.wav"}
