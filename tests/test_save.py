"""What is not saved: models that diverged, and entries that no file holds."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_finetune import BASE, KEY, pretrained

import zoo

ENTRY = dataclasses.replace(BASE, network=BASE.network | {"input_norm": 16}, checkpoint=None, metrics=())


def sentence(raised):
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 500
    return message


@pytest.fixture
def whole():
    return zoo.create(ENTRY, key=KEY)


def refused(folder, model, state, fault, **options):
    for attempt in (
        lambda: zoo.save(folder, model, state, ENTRY, **options),
        lambda: zoo.publish("user/mine", model, state, ENTRY, dry_run=True, **options),
    ):
        with pytest.raises(ValueError, match=fault) as raised:
            attempt()
        sentence(raised)
    assert not folder.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_number_that_is_not_finite_is_refused_by_the_name_of_its_array(whole, tmp_path, value, dtype):
    model, state = whole
    model = eqx.tree_at(lambda each: each.head.weight, model, model.head.weight.at[1, 2].set(value))
    refused(tmp_path / "mine", model, state, r"NaN or infinite numbers in head\.weight: .*diverged", dtype=dtype)


def test_statistics_that_are_not_finite_are_refused(whole, tmp_path):
    model, state = whole
    index = model.network.input_norm.running_mean
    refused(tmp_path / "mine", model, state.set(index, state.get(index) * jnp.nan), r"in network\.input_norm\.running")


def test_of_many_arrays_the_first_are_named(whole, tmp_path):
    model, state = whole
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan if eqx.is_inexact_array(leaf) else leaf, model)
    refused(tmp_path / "mine", broken, state, r"in network\.\S+, network\.\S+, network\.\S+ and \d+ more of \d+ arrays")


def test_finite_weights_with_infinite_outputs_are_refused(whole, tmp_path):
    model, state = whole
    model = eqx.tree_at(lambda each: (each.head.weight, each.norm.weight), model, replace_fn=lambda leaf: leaf + 1e25)
    refused(tmp_path / "mine", model, state, "gives NaN or infinite outputs, though its weights are finite")


def test_a_folder_stays_as_it_was_when_a_diverged_model_is_refused(whole, tmp_path):
    model, state = whole
    zoo.save(tmp_path / "mine", model, state, ENTRY)
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    with pytest.raises(ValueError, match="diverged"):
        zoo.save(tmp_path / "mine", eqx.tree_at(lambda each: each.head.bias, model, jnp.full(3, jnp.nan)), state, ENTRY)
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    golden, weights = (load_file(tmp_path / "mine" / f"{name}.safetensors") for name in ("golden", "model"))
    save_file(golden | {"output": np.full(3, np.nan, np.float32)}, tmp_path / "mine" / "golden.safetensors")
    with pytest.raises(ValueError, match=r"golden\.safetensors holds NaN or infinite.*do not use it") as raised:
        zoo.load(tmp_path / "mine", verify=True)
    sentence(raised)
    save_file(golden, tmp_path / "mine" / "golden.safetensors")
    save_file(weights | {"head.bias": np.full(3, np.nan, np.float32)}, tmp_path / "mine" / "model.safetensors")
    with pytest.raises(ValueError, match="does not give its golden output but NaN or infinite numbers") as raised:
        zoo.load(tmp_path / "mine", verify=True)
    sentence(raised)


@pytest.mark.parametrize("value", [np.float32(4.0), jnp.ones(()), float("nan"), {1, 2}, sum])
def test_an_option_that_json_does_not_hold_is_one_sentence(tmp_path, value):
    clip = pretrained(checkpoint=None)
    entry = dataclasses.replace(clip.entry, frontend=clip.entry.frontend | {"floor": value})
    with pytest.raises(ValueError) as raised:
        zoo.save(tmp_path / "mine", clip.model, clip.state, entry)
    sentence(raised)
    assert not (tmp_path / "mine").exists()
