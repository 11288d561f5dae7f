"""Folders of saved models: a model loads as it was saved, and what cannot be saved leaves the old files."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors import safe_open
from safetensors.numpy import load_file
from tiny import TINY, assert_equal_arrays, contents, difference, noise, seed_model

import zoo
from zoo._leaves import named_leaves
from zoo._weights import atomic

clip, copy, folder = tiny.clip, tiny.copy, tiny.folder


FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "golden.safetensors", "README.md"}


def test_a_saved_model_loads_bit_by_bit(clip):
    assert clip.entry == TINY
    assert hash(clip.entry) == hash(TINY)
    assert_equal_arrays(named_leaves(clip.model, clip.state), named_leaves(*seed_model(TINY)))


def test_a_loaded_model_saves_to_the_same_bytes(folder, clip, tmp_path):
    zoo.save(tmp_path / "again", clip.model, clip.state, clip.entry)
    assert contents(tmp_path / "again") == contents(folder)


def test_a_folder_holds_five_files_and_float32_arrays_by_field_path(folder):
    assert set(contents(folder)) == FILES
    arrays = load_file(folder / "model.safetensors")
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    assert arrays["network.stages.0.blocks.0.depthwise.weight"].shape == (7, 7, 1, 8)
    assert arrays["network.input_norm.running_var"].shape == (32,)
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "jax"}


def test_a_loaded_model_computes_what_the_saved_one_does(clip):
    run = eqx.filter_jit(lambda model, state, wave: eqx.nn.inference_mode(model)(wave, state)[0])
    logits = run(*seed_model(TINY), jnp.asarray(noise()))
    assert difference(clip(noise()), logits) < 1e-5
    assert difference(run(*seed_model(TINY, seed=1), jnp.asarray(noise())), logits) > 1e-2


def test_float16_halves_the_file_and_keeps_the_outputs(folder, clip, tmp_path):
    zoo.save(tmp_path / "half", clip.model, clip.state, clip.entry, dtype="float16")
    whole, half = ((each / "model.safetensors").read_bytes() for each in (folder, tmp_path / "half"))
    data = [len(file) - 8 - int.from_bytes(file[:8], "little") for file in (whole, half)]
    assert data[0] == 2 * data[1]
    other = zoo.load(tmp_path / "half")
    assert {leaf.dtype for leaf in named_leaves(other.model, other.state).values()} == {jnp.dtype("float32")}
    assert 0 < difference(other(noise()), clip(noise())) < 5e-3


def test_saving_over_a_model_replaces_it(copy):
    model, state = seed_model(TINY, seed=1)
    entry = dataclasses.replace(TINY, license="MIT")
    zoo.save(copy, model, state, entry)
    other = zoo.load(copy)
    assert other.entry == entry
    assert_equal_arrays(named_leaves(other.model, other.state), named_leaves(model, state))
    assert set(contents(copy)) == FILES


@pytest.mark.parametrize(
    "fields, fault",
    [
        ({"classes": 4, "labels": ()}, r"head\.weight is \(.*\) instead of \("),
        ({"network": {**TINY.network, "input_norm": None}}, r"network\.input_norm\.running_mean is surplus"),
        (
            {"network": {**TINY.network, "depths": (1, 1, 1, 2)}},
            r"network\.stages\.3\.blocks\.1\.norm\.bias is missing",
        ),
        ({"network": {**TINY.network, "type": "ResNext"}}, r"'ResNext'.*convnext_tiny"),
    ],
)
def test_a_model_that_does_not_fit_its_entry_is_not_saved(copy, fields, fault):
    before = contents(copy)
    with pytest.raises(ValueError, match=fault):
        zoo.save(copy, *seed_model(TINY, seed=1), dataclasses.replace(TINY, **fields))
    assert contents(copy) == before


def test_an_entry_that_is_no_json_leaves_the_old_folder_whole(copy):
    before = contents(copy)
    metrics = ({"dataset": "d", "metric": "m", "value": np.float32(0.5), "source": "s"},)
    with pytest.raises((TypeError, ValueError)):
        zoo.save(copy, *seed_model(TINY, seed=1), dataclasses.replace(TINY, metrics=metrics))
    assert contents(copy) == before


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail():
        with atomic(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fail()
    assert contents(tmp_path) == {"a.bin": b"old"}
    with atomic(path) as temporary:
        temporary.write_bytes(b"new")
    assert contents(tmp_path) == {"a.bin": b"new"}


def test_saving_below_no_folder_raises(clip, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        zoo.save(tmp_path / "none" / "tiny", clip.model, clip.state, clip.entry)
    assert not list(tmp_path.iterdir())


def test_labels_must_be_one_a_class():
    with pytest.raises(ValueError, match="3 classes and 2 labels"):
        dataclasses.replace(TINY, labels=("a", "b"))


def test_float16_does_not_hold_everything(clip, tmp_path):
    model = eqx.tree_at(lambda tree: tree.head.bias, clip.model, jnp.array([0.0, 1e5, 0.0]))
    with pytest.raises(ValueError, match=r"float16 ends at 65504, which head\.bias exceed"):
        zoo.save(tmp_path / "model", model, clip.state, clip.entry, dtype="float16")
    assert not (tmp_path / "model").exists()
