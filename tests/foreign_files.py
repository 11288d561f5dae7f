"""Folders and repos of models in transformers' and timm's own layout."""

import importlib.util
import json
import pathlib

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save_file

import zoo

GOLDEN = pathlib.Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("checkpoints", GOLDEN / "checkpoints.py")
checkpoints = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(checkpoints)

AST = {
    "architectures": ["ASTForAudioClassification"],
    "model_type": "audio-spectrogram-transformer",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_mel_bins": 40,
    "max_length": 100,
    "id2label": {"0": "a", "1": "b", "2": "c"},
}
EXTRACTOR = {
    "feature_extractor_type": "ASTFeatureExtractor",
    "num_mel_bins": 40,
    "max_length": 100,
    "mean": -5.0,
    "std": 3.0,
    "sampling_rate": 8000,
}


def describe(folder, config, extractor=EXTRACTOR):
    """A folder with these two files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if extractor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """An empty cache in place of the Hub's."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("hub")
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home))
        yield home


def expect_sentence(folder, fault, kind=ValueError):
    with pytest.raises(kind, match=fault) as raised:
        zoo.load(folder)
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".")
    return message


def add_weights(folder):
    """With some weights, so that these are not what is missed."""
    save_file({"classifier.dense.bias": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder
