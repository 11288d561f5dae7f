"""Dasheng: its chunks, its published sizes, its config.json and its files; `tests/test_ced.py` has what it shares."""

import functools
import json
import pathlib

import equinox as eqx
import jax
import numpy as np
import pytest
from golden.seeded import fill
from safetensors.numpy import save_file
from test_cnn import KEY, error, noise

import zoo
from audax_eqx import networks
from audax_eqx.networks import CED
from zoo._foreign import WeightFile
from zoo._leaves import named_leaves
from zoo.families import dasheng

PARAMETERS = {  # of the publisher's modules
    "dasheng_base": 85_447_808,
    "dasheng_06b": 630_333_568,
    "dasheng_12b": 1_134_047_360,
}
SMALL = {"bins": 8, "frames": 20, "patch": (4, 8), "fill": False}


@functools.cache
def small(**options):
    network, state = fill(functools.partial(CED, 8, 1, 2, **SMALL | options))
    return eqx.nn.inference_mode(network), state


@eqx.filter_jit
def run(network, state, x):
    return network.features(x, state)[0], network(x, state)[0]


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_variants_have_the_published_number_of_parameters(name, parameters):
    network, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(network) if hasattr(leaf, "shape")) == parameters
    assert (len(network.time_embedding), len(network.freq_embedding)) == (252, 1)


@pytest.mark.parametrize("frames", [20, 23, 24, 40, 43, 47, 59])
def test_the_last_chunk_is_as_short_as_it_is(frames):
    network, state = small()
    x = noise(frames, 8)
    pieces = [x[start : start + 20] for start in range(0, frames, 20)]
    maps = [run(network, state, piece)[0] for piece in pieces if len(piece) >= 4]
    y, embedding = run(network, state, x)
    assert y.shape == (frames // 4, 1, 8)
    assert error(y, np.concatenate(maps)) < 1e-5
    assert error(embedding, np.mean(y, axis=(0, 1))) < 1e-5
    np.testing.assert_array_equal(network.positions(len(y)), 4 * np.arange(len(y)) + 1.5)


def published_shapes():
    """The shape of each array of the published base model on the Hub."""
    width = 768
    shapes = {"time_pos_embed": (1, width, 1, 252), "freq_pos_embed": (1, width, 1, 1)}
    shapes |= {"patch_embed.proj.weight": (width, 1, 64, 4), "patch_embed.proj.bias": (width,)}
    shapes |= {f"init_bn.1.{leaf}": (64,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"init_bn.1.num_batches_tracked": ()}
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in range(12):
        for layer, (outputs, inputs) in layers.items():
            shapes[f"blocks.{block}.{layer}.weight"] = (outputs * width, inputs * width)
            shapes[f"blocks.{block}.{layer}.bias"] = (outputs * width,)
        for leaf in ("weight", "bias"):
            shapes |= {f"blocks.{block}.norm{index}.{leaf}": (width,) for index in (1, 2)}
    shapes |= {f"norm.{leaf}": (width,) for leaf in ("weight", "bias")}
    return {f"encoder.{key}": shape for key, shape in shapes.items()}


# The zoo --------------------------------------------------------------------------------------------------------------


def test_the_published_entry_says_whose_it_is():
    entry = zoo.info("dasheng_base")
    assert (entry.classes, entry.task, entry.sample_rate, entry.license) == (0, "embedding", 16000, "Apache-2.0")
    assert (entry.checkpoint.repo, entry.network["type"]) == ("mispeech/dasheng-base", "dasheng_base")


CONFIG = {"model_type": "dasheng", "name": "dasheng-base", "embed_dim": 16, "depth": 1, "num_heads": 2}


def folder(tmp_path, config=None, extractor=None):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(extractor or {}))
    return tmp_path


def theirs(entry):
    """A model of this entry with random weights, and its arrays by the publisher's names."""
    model, state = zoo.create(entry, key=jax.random.key(1))
    names = {
        "attention_norm": "norm1",
        "mlp_norm": "norm2",
        "attention.output": "attn.proj",
        "attention.qkv": "attn.qkv",
    }
    names |= {"expand": "mlp.fc1", "contract": "mlp.fc2"}
    arrays = {}
    for name, leaf in named_leaves(model, state).items():
        array, key = np.asarray(leaf), name.removeprefix("network.")
        for ours, other in names.items():
            key = key.replace(f".{ours}.", f".{other}.")
        key = key.replace("input_norm", "init_bn.1").replace("patchify", "patch_embed.proj")
        if key == "patch_embed.proj.weight":
            array = array.transpose(3, 2, 1, 0)
        elif key == "time_embedding":
            key, array = "time_pos_embed", array.T[None, :, None]
        elif key == "freq_embedding":
            key, array = "freq_pos_embed", array.T[None, :, :, None]
        arrays[key] = np.ascontiguousarray(array)
    return model, state, arrays


def test_a_folder_of_the_hubs_loads(tmp_path):
    entry = zoo.info(folder(tmp_path))
    assert (entry.window, entry.frontend["f_max"], entry.frontend["top_db"]) == (10.07, 8000, 120.0)
    model, state, arrays = theirs(entry)
    save_file({f"encoder.{key}": array for key, array in arrays.items()}, tmp_path / "model.safetensors")
    clip = zoo.load(tmp_path)
    for name, leaf in named_leaves(model, state).items():
        np.testing.assert_array_equal(leaf, named_leaves(clip.model, clip.state)[name])


def test_a_file_of_the_authors_converts(tmp_path):
    model, state, arrays = theirs(zoo.info(folder(tmp_path)))
    arrays["front_end.0.mel_scale.fb"] = np.zeros((257, 64), np.float32)
    save_file({f"model.{key}": array for key, array in arrays.items()}, tmp_path / "dasheng.safetensors")
    clip = zoo.load(zoo.convert(tmp_path / "dasheng.safetensors", tmp_path / "made", network={"heads": 2}))
    ours = named_leaves(clip.model, clip.state)
    for name, leaf in named_leaves(model, state).items():
        np.testing.assert_array_equal(leaf, ours[name])
    assert (clip.entry.window, clip.entry.license, clip.entry.task) == (10.07, None, "embedding")


def test_the_heads_are_those_of_the_files_config(tmp_path):
    shapes = {key: array.shape for key, array in theirs(zoo.info(folder(tmp_path)))[2].items()}

    def heads(**given):
        return dasheng.recognise(WeightFile(pathlib.Path("x.pt"), "torch", {}, shapes, **given)).entry.network["heads"]

    assert (heads(), heads(settings={"config": {"num_heads": 4}}), heads(settings={"config": 3})) == (1, 4, 1)
    file = WeightFile(pathlib.Path("x"), "torch", {}, shapes | {"outputlayer.1.weight": (5, 16)})
    assert dasheng.recognise(file) is None


@pytest.mark.parametrize(
    ("config", "extractor", "message"),
    [
        ({"name": "dasheng-2B"}, {}, "has the name 'dasheng-2B': the zoo has dasheng-base"),
        ({"pooling": "token"}, {}, "has the pooling 'token'"),
        ({"init_bn": False}, {}, "has the init_bn False"),
        ({"mystery": 1}, {}, "has the field mystery"),
        ({}, {"mystery": 1}, "has the field mystery"),
        ({"n_mels": 128}, {}, "n_mels 128 in its config.json, and the feature_size 64"),
        ({"patch_stride": [64, 2]}, {}, "patch_stride"),
        ({"patch_size": 16}, {}, "patch_size"),
    ],
)
def test_what_the_zoo_does_not_have_is_refused(tmp_path, config, extractor, message):
    with pytest.raises(ValueError, match=message):
        zoo.load(folder(tmp_path, config, extractor))
