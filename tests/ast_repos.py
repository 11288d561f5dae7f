"""Repos of an AST without blocks: with a torch file, with safetensors, in parts, and with a decoder of no use."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from hub import digest
from safetensors.numpy import save_file
from torch_files import torch_file

import zoo
from zoo._leaves import named_leaves
from zoo._rules import Rule, drop

GOLDEN = pathlib.Path(__file__).parent / "golden"
AST = {
    "architectures": ["ASTForAudioClassification"],
    "model_type": "audio-spectrogram-transformer",
    "id2label": {"0": "a", "1": "b", "2": "c"},
}
EXTRACTOR = {"feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 40, "max_length": 100}
DECODER = Rule(r"decoder\..*", drop)
SIZE = 40_000  # numbers in the decoder, nine tenths of the file


def ast_folder(folder, **arrays):
    """The two descriptions of an AST without blocks, its weights as transformers names them, and the arrays besides."""
    with np.load(GOLDEN / "transformers_ast.npz") as file:
        prefix, config = "no bias/weights/", json.loads(str(file["no bias/config"]))
        weights = {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}
    weights = {key: array for key, array in weights.items() if ".encoder.layer." not in key}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(AST | config | {"num_hidden_layers": 0}))
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR))
    return weights | arrays


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a torch file's repo and of pull requests: their weights are other ones, which tells them apart."""
    root = tmp_path_factory.mktemp("folders")
    weights = ast_folder(root / "torch")
    (root / "torch" / "pytorch_model.bin").write_bytes(torch_file(weights))
    other = {name: array + 1 for name, array in weights.items()}
    decoder = {"decoder.0.weight": np.ones(SIZE, np.float32), "decoder.1.weight": np.ones(9, np.float16)}
    for name in ("whole", "parts", "decoder", "tail"):
        (root / name).mkdir()
    save_file(other, root / "whole" / "model.safetensors")
    save_file(other | decoder, root / "decoder" / "model.safetensors")
    save_file(other | {"decoder.0.weight": np.ones(2, np.float32)}, root / "tail" / "model.safetensors")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {key: names[number % 2] for number, key in enumerate(other)}
    for file in names:
        part = {key: other[key] for key in other if places[key] == file}
        save_file(part | (decoder if file == names[0] else {}), root / "parts" / file)
    places |= dict.fromkeys(decoder, names[0])
    (root / "parts" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    for name in ("decoder", "tail"):
        for file in ("config.json", "preprocessor_config.json"):
            shutil.copy(root / "torch" / file, root / name / file)
    return root


@pytest.fixture(scope="module")
def torch_digest(folders):
    """Of the weights in the torch file."""
    clip = zoo.load(folders / "torch")
    return digest(named_leaves(clip.model, clip.state))
