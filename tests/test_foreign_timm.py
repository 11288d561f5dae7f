"""ImageNet's models in timm's own layout, and models of kinds that the zoo does not have."""

import functools
import json

import equinox as eqx
import foreign_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_files import GOLDEN, add_weights, checkpoints, describe, expect_sentence
from hub_cache import make_snapshot
from safetensors.numpy import save_file
from tiny import difference

import zoo
from zoo._leaves import named_leaves

hub = foreign_files.hub


@pytest.mark.parametrize(
    "config, fault",
    [
        ({"model_type": "wav2vec2-bert", "architectures": ["Wav2Vec2BertModel"]}, "x holds a model of the kind 'wav2v"),
        ({"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}, "of the kind 'resnet'"),
        ({"architecture": "vit_base_patch16_224", "num_classes": 1000}, "of the kind 'vit_base_patch16_224'"),
        ({"architecture": ["resnet18"]}, "of the kind"),
        ({"architecture": None}, "of the kind None"),
        ({"architecture": "resnet18d", "num_classes": 10}, r"'resnet18d', which is not in.*resnet18"),
        ({"architecture": "convnextv2_tiny", "num_classes": 10}, r"'convnextv2_tiny', which is not in.*convnext_tiny"),
        ({"architecture": "resnet18", "num_classes": 0}, "0 classes"),
        (
            {"architecture": "resnet18", "global_pool": "max"},
            "x has the global_pool 'max': the zoo has 'avg' or 'fast'",
        ),
        (
            {"architecture": "resnet18", "pretrained_cfg": {"global_pool": "max"}},
            "the global_pool 'max' in its pretrained",
        ),
        ({"architecture": "resnet18", "model_args": {"act_layer": "silu"}}, "the act_layer 'silu': the zoo has 'relu'"),
        ({"architecture": "resnet18", "model_args": {"output_stride": 8}}, r"x has the field output_stride \(8\)"),
        ({"architecture": "convnext_tiny", "model_args": {"use_grn": True}}, r"x has the field use_grn \(True\)"),
        ({"architecture": "efficientnet_b0", "pad_type": "same"}, r"x has the field pad_type \('same'\)"),
        ({"architecture": "resnet18", "num_classes": "ten"}, "ten"),
    ],
)
def test_a_model_that_the_zoo_does_not_have_is_told_in_a_sentence(tmp_path, config, fault):
    expect_sentence(add_weights(describe(tmp_path / "x", config)), fault)


@functools.cache
def seeded(name):
    shapes = json.loads((GOLDEN / "checkpoints.json").read_text())[name]
    return {key: checkpoints.seeded(key, tuple(shape)) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def timm(hub):
    """A function that loads a published ImageNet model from the cache, with seeded weights."""

    @functools.cache
    def load(name):
        save_file(seeded(name), make_snapshot(hub, name) / "model.safetensors")
        seeded.cache_clear()
        return zoo.load(name)

    return load


@eqx.filter_jit
def image_stages(clip, x):
    embedding, _ = clip.model.network(x, clip.state)
    return {"embedding": embedding, "logits": clip.model.head(embedding)}


@pytest.mark.parametrize("name", checkpoints.TIMM)
def test_imagenet_weights_give_what_timm_gives_for_a_map_in_three_channels(timm, name):
    clip = timm(name)
    x = checkpoints.seeded(name, checkpoints.TIMM[name])
    with np.load(GOLDEN / "checkpoints.npz") as golden:
        for stage, ours in image_stages(clip, jnp.asarray(x)).items():
            assert difference(ours, golden[f"{name}/{stage}"]) < 2e-5, stage
    assert (clip.entry.classes, clip.entry.license) == (1000, "Apache-2.0")
    assert clip.model.frontend.bins == 128


def test_imagenet_weights_are_a_start_for_training(timm):
    clip = timm("timm/resnet18.a1_in1k")
    model, state = clip.thaw(classes=4, key=jax.random.key(0))
    assert model.head.weight.shape == (4, 512)
    waves = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4800)).astype(np.float32)
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def step(parameters, state):
        def loss(parameters):
            run = jax.vmap(eqx.combine(parameters, static), (0, None), (0, None), axis_name="batch")
            logits, new_state = run(waves, state)
            return -jnp.mean(jax.nn.log_softmax(logits)[:, 1]), new_state

        (value, new_state), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        return value, new_state, gradients

    value, new_state, gradients = step(parameters, state)
    assert np.isfinite(value) and 0 < float(value) < 20
    slopes = {name: np.asarray(leaf) for name, leaf in named_leaves(gradients, new_state).items()}
    assert all(np.isfinite(leaf).all() for leaf in slopes.values())
    assert all(np.abs(slopes[name]).max() > 0 for name in ("network.stem.weight", "head.weight", "head.bias"))
    before = named_leaves(model, state)
    assert not np.array_equal(
        slopes["network.stages.3.1.norm2.running_var"], before["network.stages.3.1.norm2.running_var"]
    )


def test_an_image_repo_describes_itself(hub):
    arrays = seeded("timm/resnet18.a1_in1k")
    arrays = arrays | {"fc.weight": arrays["fc.weight"][:10], "fc.bias": arrays["fc.bias"][:10]}
    folder = make_snapshot(hub, "timm/other")
    config = {"architecture": "resnet18", "num_classes": 10, "num_features": 512, "pretrained_cfg": {"tag": "a"}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(arrays, folder / "model.safetensors")
    clip = zoo.load("timm/other")
    assert (clip.entry.name, clip.entry.classes, clip.entry.source) == (
        "timm/other",
        10,
        "https://huggingface.co/timm/other",
    )
    np.testing.assert_array_equal(clip.model.head.bias, arrays["fc.bias"])
    np.testing.assert_allclose(
        clip.model.network.stem.weight[2, 3, 0], arrays["conv1.weight"].sum(axis=1)[:, 2, 3], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(
        clip.model.network.stages[1][0].conv1.weight, arrays["layer2.0.conv1.weight"].transpose(2, 3, 1, 0)
    )
    state = clip.state.get(clip.model.network.stages[1][0].shortcut.norm.running_var)
    np.testing.assert_array_equal(state, arrays["layer2.0.downsample.1.running_var"])


def test_an_image_model_of_another_size_than_its_config_says_is_refused(tmp_path):
    folder = describe(tmp_path / "x", {"architecture": "resnet18", "num_classes": 10}, None)
    save_file({"fc.bias": np.zeros(11, np.float32)}, folder / "model.safetensors")
    message = expect_sentence(folder, r"head\.bias is \(11,\) instead of \(10,\)")
    assert "network.stem.weight is missing" in message
