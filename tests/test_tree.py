"""Names, what is frozen, half precision, factors by depth, and low-rank adapters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from audax_eqx import frontends, lora, models, networks, tree
from audax_eqx.layers import FusedAttention, Linear

KEY = jax.random.key(0)


def classifier(name="convnext_atto", *, key=KEY):
    def build(key):
        frontend = frontends.LEAF(8000, 16, key=key)
        return models.Classifier(frontend, getattr(networks, name)(key=key), 3, key=key)

    return eqx.nn.make_with_state(build)(key)


CONVNEXT, _ = classifier()


def by_name(values, of):
    return dict(zip(jax.tree.leaves(tree.names(of)), jax.tree.leaves(values), strict=True))


def test_names_are_the_keys_of_a_file_of_weights(tmp_path):
    clip = zoo.load("resnet_fsdd")
    zoo.save(tmp_path, clip.model, clip.state, clip.entry)
    saved = set(zoo.arrays(tmp_path / "model.safetensors"))
    names = set(jax.tree.leaves(tree.names(eqx.filter(clip.model, eqx.is_array))))
    assert names < saved and all("running" in name for name in saved - names)


@pytest.mark.parametrize(("name", "millions"), [("ast_base", 86.1), ("efficientnet_b0", 4.0)])
def test_count_is_of_shapes_too(name, millions):
    network, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=KEY)
    assert tree.count(network) / 1e6 == pytest.approx(millions, abs=0.1)
    assert tree.count({"a": np.zeros((2, 3)), "b": 7, "c": jnp.ones(())}) == 7


def test_frozen_parts_infer_and_the_exceptions_train():
    model = eqx.nn.inference_mode(CONVNEXT, value=False)
    parameters, rest = tree.freeze(model, ("network.*", "frontend.*"), but=("network.norm.*",))
    names = set(by_name(parameters, parameters))
    assert names == {"network.norm.weight", "network.norm.bias", "head.weight", "head.bias"}
    assert eqx.tree_equal(eqx.filter(eqx.combine(parameters, rest), eqx.is_array), eqx.filter(model, eqx.is_array))
    flags = {name: leaf for name, leaf in by_name(rest, rest).items() if name.endswith(".inference")}
    assert all(leaf == name.startswith("network.") for name, leaf in flags.items()) and len(flags) > 1
    for patterns in (("network.nothing.*",), ("head.*", "netwrok.*")):
        with pytest.raises(ValueError, match="is no parameter of the model"):
            tree.freeze(model, patterns)
    with pytest.raises(ValueError, match="leaves nothing to train"):
        tree.freeze(model, ("*",))


def test_a_text_is_no_sequence_of_patterns():
    for call in (lambda: tree.freeze(CONVNEXT, "network.*"), lambda: tree.freeze(CONVNEXT, (), but="head.*")):
        with pytest.raises(TypeError, match="Patterns come as a sequence of them, got the text"):
            call()
    with pytest.raises(TypeError, match="Patterns come as a sequence"):
        lora.adapt(CONVNEXT, 1, patterns="network.*", key=KEY)


def test_half_precision_leaves_frontends_and_statistics_alone():
    clip = eqx.filter(tree.half(zoo.load("resnet_fsdd")), eqx.is_array)
    assert {leaf.dtype for leaf in jax.tree.leaves((clip.model.network, clip.model.head))} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(clip.state)} == {jnp.dtype("float32")}
    model = tree.half({"model": CONVNEXT, "steps": jnp.arange(3)})
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model["model"].frontend, eqx.is_array))} == {
        jnp.dtype("float32")
    }
    assert model["model"].head.weight.dtype == jnp.bfloat16 and model["steps"].dtype == jnp.int32


@pytest.mark.parametrize("name", ["convnext_atto", "ast_tiny", "resnet18", "efficientnet_b0", "whisper_tiny"])
def test_rates_fall_with_depth(name):
    model, _ = eqx.filter_eval_shape(classifier, name, key=KEY)
    factors = by_name(tree.layerwise(model, 0.5), model)
    stages = len(getattr(model.network, "stages", getattr(model.network, "blocks", ())))
    assert factors["head.weight"] == 1 and min(factors.values()) == 0.5 ** (stages + 1)
    first, last = (
        {value for key, value in factors.items() if f"s.{index}." in key.removeprefix("network.")[:12]}
        for index in (0, stages - 1)
    )
    assert (first, last) == ({0.5**stages}, {0.5})
    assert {value for key, value in factors.items() if key.startswith("frontend.")} == {0.5 ** (stages + 1)}


def test_rates_are_of_the_parameters_that_train():
    parameters, _ = tree.freeze(CONVNEXT, ("frontend.*", "network.stages.0.*"))
    factors = tree.layerwise(parameters, 0.5)
    assert jax.tree.structure(factors) == jax.tree.structure(parameters)
    assert by_name(factors, parameters)["network.norm.weight"] == 0.5
    assert by_name(factors, parameters)["network.stages.1.blocks.0.norm.weight"] == 0.5**3


@pytest.mark.parametrize("name", ["convnext_atto", "ast_tiny", "resnet18"])
def test_an_adapted_model_starts_as_it_was_and_merges_to_what_it_became(name):
    model, state = eqx.nn.inference_mode(classifier(name))
    wave = jnp.asarray(np.random.default_rng(0).normal(size=8000), jnp.float32)
    adapted = lora.adapt(model, 2, key=KEY)
    np.testing.assert_array_equal(model(wave, state)[0], adapted(wave, state)[0])

    parameters, rest = tree.freeze(adapted, ("*",), but=(*lora.ADAPTERS, "head.*"))
    names = by_name(parameters, parameters)
    assert {key.rpartition(".")[2] for key in names if not key.startswith("head.")} == {"down", "up"}
    moved = eqx.combine(jax.tree.map(lambda leaf: leaf + 0.03, parameters), rest)
    merged = lora.merge(moved)
    np.testing.assert_allclose(merged(wave, state)[0], moved(wave, state)[0], rtol=1e-3, atol=1e-4)
    assert np.abs(merged(wave, state)[0] - model(wave, state)[0]).max() > 1e-2
    assert jax.tree.structure(merged) == jax.tree.structure(model)
    assert jax.tree.structure(lora.merge(model)) == jax.tree.structure(model)


def test_an_adapter_stands_for_its_linear():
    base = Linear(5, 3, key=KEY)
    adapter = lora.LoRA(base, 2, key=KEY)
    adapter = eqx.tree_at(lambda adapter: adapter.up, adapter, jnp.ones((3, 2)))
    assert (adapter.inputs, adapter.outputs, adapter.bias is base.bias) == (5, 3, True)
    x = jnp.arange(10.0).reshape(2, 5)
    np.testing.assert_allclose(adapter(x), x @ adapter.weight.T + base.bias[None], rtol=1e-5)
    np.testing.assert_allclose(adapter.weight - base.weight, np.ones((3, 2)) @ adapter.down, atol=1e-6)
    attention = lora.adapt({"network": FusedAttention(4, 2, key=KEY)}, 1, patterns=("network.qkv.*",), key=KEY)[
        "network"
    ]
    assert attention.qkv.down.shape == (1, 4) and attention.qkv.up.shape == (12, 1)
    assert isinstance(attention.output, Linear)


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ValueError, match="a rank of at least 1, got 0"):
        lora.adapt(CONVNEXT, 0, key=KEY)
    with pytest.raises(ValueError, match=r"no Linear under frontend\.\*"):
        lora.adapt(CONVNEXT, 1, patterns=("frontend.*",), key=KEY)
    with pytest.raises(ValueError, match="merge them first"):
        lora.adapt(lora.adapt(CONVNEXT, 1, key=KEY), 1, key=KEY)


def test_saving_merges_adapters(tmp_path):
    clip = zoo.load("resnet_fsdd")
    model = lora.adapt(clip.model, 2, patterns=("head.*",), key=KEY)
    model = eqx.tree_at(lambda model: model.head.up, model, jnp.ones((10, 2)))
    zoo.save(tmp_path, model, clip.state, clip.entry)
    assert eqx.tree_equal(zoo.load(tmp_path).model, lora.merge(model))
