"""Checkpoints of audax at other sizes: each array arrives at its place, and options say what no array tells."""

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from audax_files import (
    NARROW,
    classifier,
    contrastive,
    convnext,
    efficientnet,
    leaf,
    resnet,
    seed,
    sincnet,
    tiny_arrays,
    write_checkpoint,
)
from safetensors.numpy import load_file

import zoo

FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "golden.safetensors", "README.md"}


SAME = {"padding": "same"}
CASES = {
    "resnet18": (
        resnet((2, 2, 2, 2), 8, False) | classifier(64, 3),
        {"network": {"type": "ResNet", "depths": (2, 2, 2, 2), "widths": (8, 16, 32, 64), "bottleneck": False} | SAME},
        {
            "encoder/conv_init/kernel": "network.stem.weight",
            "encoder/bn_init/var": "network.norm.running_var",
            "encoder/ResNetBlock_1/Conv_1/kernel": "network.stages.0.1.conv2.weight",
            "encoder/ResNetBlock_4/conv_proj/kernel": "network.stages.2.0.shortcut.conv.weight",
            "encoder/ResNetBlock_7/BatchNorm_0/mean": "network.stages.3.1.norm1.running_mean",
            "fc/kernel": "head.weight",
        },
    ),
    "resnet50": (
        resnet((3, 4, 6, 3), 4, True) | classifier(128, 3),
        {"network": {"type": "ResNet", "depths": (3, 4, 6, 3), "widths": (4, 8, 16, 32), "bottleneck": True} | SAME},
        {
            "encoder/BottleneckResNetBlock_0/conv_proj/kernel": "network.stages.0.0.shortcut.conv.weight",
            "encoder/BottleneckResNetBlock_2/Conv_2/kernel": "network.stages.0.2.conv3.weight",
            "encoder/BottleneckResNetBlock_12/Conv_1/kernel": "network.stages.2.5.conv2.weight",
            "encoder/BottleneckResNetBlock_13/norm_proj/scale": "network.stages.3.0.shortcut.norm.weight",
            "encoder/BottleneckResNetBlock_15/BatchNorm_2/bias": "network.stages.3.2.norm3.bias",
        },
    ),
    "efficientnet_b1": (
        efficientnet((2, 3, 3, 4, 4, 5, 2), NARROW) | classifier(192, 527),
        {
            "network": {"type": "EfficientNet", "depths": (2, 3, 3, 4, 4, 5, 2), "widths": NARROW, "excite_bias": False}
            | SAME,
            "classes": 527,
            "task": "multilabel",
        },
        {
            "encoder/ConvNormActivation_1/Conv_0/kernel": "network.end.weight",
            "encoder/MBConv_1/ConvNormActivation_1/Conv_0/kernel": "network.stages.0.1.project.weight",
            "encoder/MBConv_2/ConvNormActivation_1/BatchNorm_0/var": "network.stages.1.0.depthwise_norm.running_var",
            "encoder/MBConv_16/SqueezeAndExcitation_0/reduce/kernel": "network.stages.5.0.excite.reduce.weight",
            "encoder/MBConv_22/ConvNormActivation_0/Conv_0/kernel": "network.stages.6.1.expand.weight",
        },
    ),
    "convnext": (
        convnext((2, 1, 11, 1), (4, 8, 12, 20)) | classifier(20, 35),
        {
            "network": {"type": "ConvNeXt", "depths": (2, 1, 11, 1), "widths": (4, 8, 12, 20)}
            | {"final_norm": False, "gelu": "tanh"},
            "classes": 35,
        },
        {
            "encoder/Conv_0/kernel": "network.stages.0.reduce.patchify.weight",
            "encoder/ConvNeXtStage_3/Conv_0/kernel": "network.stages.3.reduce.patchify.weight",
            "encoder/ConvNeXtStage_3/LayerNorm_0/scale": "network.stages.3.reduce.norm.weight",
            "encoder/ConvNeXtStage_2/ConvNeXtBlock_10/gamma": "network.stages.2.blocks.10.layer_scale",
            "encoder/ConvNeXtStage_2/ConvNeXtBlock_1/Mlp_0/Dense_1/kernel": "network.stages.2.blocks.1.contract.weight",
        },
    ),
    "cola_efficientnet": (
        efficientnet((1,) * 7, NARROW) | contrastive(192, 24, True),
        {
            "network": {"type": "EfficientNet", "depths": (1,) * 7, "widths": NARROW, "excite_bias": False} | SAME,
            "model": {"type": "COLA", "width": 24, "similarity": "bilinear"},
            "classes": 0,
            "task": "contrastive",
        },
        {
            "embedding_fc/kernel": "projection.weight",
            "bilinear_layernorm/scale": "norm.weight",
            "similarity_layer/bilinear_product_weight": "bilinear",
        },
    ),
    "simclr_resnet": (
        resnet((1, 1, 1, 1), 8, False) | contrastive(64, 24, False),
        {
            "network": {"type": "ResNet", "depths": (1, 1, 1, 1), "widths": (8, 16, 32, 64), "bottleneck": False}
            | SAME,
            "model": {"type": "COLA", "width": 24, "similarity": "dot"},
            "classes": 0,
            "task": "contrastive",
        },
        {"embedding_fc/kernel": "projection.weight"},
    ),
    "leaf": (
        leaf(40) | resnet((1, 1, 1, 1), 8, True) | classifier(256, 3),
        {
            "frontend": {"type": "LEAF", "sample_rate": 16000, "bins": 40},
            "network": {"type": "ResNet", "depths": (1, 1, 1, 1), "widths": (8, 16, 32, 64), "bottleneck": True} | SAME,
        },
        {
            "frontend/complex_conv/gabor_kernel": "frontend.gabor",
            "frontend/pooling/kernel": "frontend.pooling",
            "frontend/compression/delta": "frontend.compression.delta",
            "frontend/compression/ExponentialMovingAverage_0/smooth": "frontend.compression.smooth",
        },
    ),
    "cola_sincnet": (
        sincnet(32) | convnext((1, 1, 1, 1), (4, 8, 12, 20)) | contrastive(20, 6, True),
        {
            "frontend": {"type": "SincNet", "sample_rate": 16000, "bins": 32},
            "network": {"type": "ConvNeXt", "depths": (1, 1, 1, 1), "widths": (4, 8, 12, 20)}
            | {"final_norm": False, "gelu": "tanh"},
            "model": {"type": "COLA", "width": 6, "similarity": "bilinear"},
            "classes": 0,
            "task": "contrastive",
        },
        {
            "frontend/complex_conv/sinc_kernel": "frontend.bands",
            "frontend/compression/scale": "frontend.norm.weight",
            "bilinear_layernorm/bias": "norm.bias",
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_architecture_is_recognised_and_each_of_its_arrays_arrives(tmp_path, case):
    shapes, fields, places = CASES[case]
    arrays = seed(shapes)
    folder = zoo.convert(write_checkpoint(tmp_path / "checkpoint_9", arrays), tmp_path / "made")
    entry = zoo.info(folder)
    expected = {
        "name": "made",
        "frontend": {"type": "audax_log_mel", "sample_rate": 16000},
        "model": {"type": "Classifier"},
        "classes": 3,
        "task": "multiclass",
        "window": 5.0,
        "labels": (),
        "checkpoint": None,
    } | fields
    assert {field: getattr(entry, field) for field in expected} == expected
    weights = load_file(folder / "model.safetensors")
    assert sorted(np.sort(array.ravel()).tobytes() for array in arrays.values()) == sorted(
        np.sort(array.ravel()).tobytes() for array in weights.values()
    )
    for theirs, ours in places.items():
        array = arrays[theirs]
        if "sinc_kernel" in theirs or "gabor" in theirs or "bilinear_product" in theirs:
            value = array
        elif array.shape[:-2] in ((), (1, 1)) and array.ndim > 1:
            value = array.reshape(array.shape[-2:]).T
        else:
            value = array
        np.testing.assert_array_equal(np.squeeze(weights[ours]), np.squeeze(value), err_msg=theirs)


def test_a_linear_probes_encoder_comes_from_its_frozen_parameters(tmp_path):
    arrays = seed(resnet((1, 1, 1, 1), 4, False) | classifier(32, 3))
    probe = write_checkpoint(tmp_path / "probe", arrays, frozen=("encoder/",))
    tree = msgpack.unpackb(probe.read_bytes(), ext_hook=lambda code, data: None)
    assert list(tree["params"]) == ["fc"] and list(tree["frozen_params"]) == ["encoder"]
    whole = zoo.convert(write_checkpoint(tmp_path / "whole", arrays), tmp_path / "a")
    frozen = zoo.convert(probe, tmp_path / "b")
    assert (frozen / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    head = load_file(frozen / "model.safetensors")["head.weight"]
    np.testing.assert_array_equal(head, arrays["fc/kernel"].T)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_half_precision_arrays_become_float32_without_loss(tmp_path, dtype):
    arrays = {name: array.astype(dtype) for name, array in tiny_arrays().items()}
    weights = load_file(
        zoo.convert(write_checkpoint(tmp_path / "half", arrays), tmp_path / "made") / "model.safetensors"
    )
    assert {array.dtype for array in weights.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(weights["head.weight"], arrays["fc/kernel"].astype(np.float32).T)
    np.testing.assert_array_equal(
        weights["network.stages.1.blocks.0.depthwise.weight"],
        arrays["encoder/ConvNeXtStage_1/ConvNeXtBlock_0/Conv_0/kernel"].astype(np.float32),
    )


def test_what_no_array_tells_is_a_parameter(tmp_path):
    source = write_checkpoint(tmp_path / "source", tiny_arrays())
    folder = zoo.convert(
        source, tmp_path / "made", sample_rate=22050, window=0.5, labels=("x", "y", "z"), task="multilabel"
    )
    entry = zoo.info(folder)
    assert (entry.sample_rate, entry.window, entry.labels, entry.task) == (22050, 0.5, ("x", "y", "z"), "multilabel")
    assert zoo.load(folder).labels == ("x", "y", "z")


def test_the_folder_lies_beside_the_checkpoint_unless_named(tmp_path):
    source = write_checkpoint(tmp_path / "checkpoint_123", tiny_arrays())
    folder = zoo.convert(source)
    assert folder == tmp_path / "checkpoint_123_audax_eqx"
    assert zoo.load(folder).entry.name == "checkpoint_123_audax_eqx"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint_123", "checkpoint_123_audax_eqx"}
    assert {path.name for path in folder.iterdir()} == FILES


def test_converting_again_replaces_the_folder(tmp_path):
    first = zoo.convert(write_checkpoint(tmp_path / "first", tiny_arrays()), tmp_path / "made", labels=("x", "y", "z"))
    other = tiny_arrays(**{"fc/kernel": np.ones((16, 4), np.float32), "fc/bias": np.zeros(4, np.float32)})
    second = zoo.convert(str(write_checkpoint(tmp_path / "other", other)), str(tmp_path / "made"))
    assert first == second
    assert (zoo.info(second).classes, zoo.info(second).labels) == (4, ())
    np.testing.assert_array_equal(load_file(second / "model.safetensors")["head.weight"], np.ones((4, 16)))
    assert {path.name for path in second.iterdir()} == FILES
