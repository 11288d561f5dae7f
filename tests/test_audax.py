"""Checkpoints of audax: its outputs, its layouts at other sizes, and what is no checkpoint."""

import json

import equinox as eqx
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file

import zoo
from zoo._flax import read_train_state

ORACLES = (
    "cola_bilinear",
    "cola_dot",
    "convnext",
    "efficientnet",
    "leaf_convnext",
    "resnet_basic",
    "resnet_bottleneck",
    "simclr",
    "sincnet_convnext",
)
FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "golden.safetensors", "README.md"}
CONVNEXT = {"type": "ConvNeXt", "depths": (1, 1, 2, 1), "widths": (8, 16, 24, 32), "final_norm": False, "gelu": "tanh"}
NETWORKS = {
    "efficientnet": {
        "type": "EfficientNet",
        "depths": (1, 1, 1, 2, 2, 2, 1),
        "widths": (8, 8, 8, 16, 24, 32, 48, 80),
        "padding": "same",
        "excite_bias": False,
    },
    "resnet_basic": {
        "type": "ResNet",
        "depths": (1, 2, 1, 1),
        "widths": (8, 16, 32, 64),
        "bottleneck": False,
        "padding": "same",
    },
    "resnet_bottleneck": {
        "type": "ResNet",
        "depths": (1, 1, 2, 1),
        "widths": (8, 16, 32, 64),
        "bottleneck": True,
        "padding": "same",
    },
}


def difference(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


# The outputs of audax


@eqx.filter_jit
def stages(clip, wave):
    return {"frontend": clip.model.frontend(wave), "embedding": clip.embed(wave), "output": clip(wave)}


@pytest.mark.parametrize("name", ORACLES)
def test_a_converted_model_gives_what_audax_gave(shared, tmp_path, name):
    folder = shared / "oracles" / "audax"
    known = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as file:
        golden = dict(file)
    with np.load(folder / "features.npz") as file:
        waves, log_mel = file["wave"], file["log_mel"]
    contrastive = known["model"] != "Classifier"
    options = {"model": known["model"]} if contrastive else {}
    made = zoo.convert(folder / f"{name}.checkpoint", tmp_path / "made", window=2.0, **options)
    clip = zoo.load(made)
    assert made == tmp_path / "made" and clip.entry.name == "made"
    assert clip.entry.model["type"] == known["model"]
    assert clip.entry.network == NETWORKS.get(name, CONVNEXT)
    assert (clip.entry.classes, clip.entry.task) == ((0, "contrastive") if contrastive else (7, "multiclass"))
    assert (clip.sample_rate, clip.entry.window, clip.entry.checkpoint) == (16000, 2.0, None)

    ours = [stages(clip, wave) for wave in waves]
    ours = {stage: np.stack([each[stage] for each in ours]) for stage in ours[0]}
    if "frontend" not in golden:
        golden["frontend"] = log_mel
    if name.startswith("cola"):
        assert clip.entry.model["similarity"] == known["similarity"].removesuffix("_product")
        assert clip.model.temperature == known["temperature"]
        ours["output"] = clip.model.similarity(ours["output"][:2], ours["output"][2:])
    for stage, theirs in golden.items():
        assert difference(ours[stage], theirs) < 2e-5, stage
    if name == "simclr":
        z = ours["output"].astype(np.float64)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        logits = z @ z.T / known["nt_xent_temperature"]
        np.testing.assert_allclose(clip.model.similarity(ours["output"], ours["output"]), logits, atol=1e-4)
        positive = logits[np.arange(4), [2, 3, 0, 1]]
        others = np.log(np.sum(np.exp(logits) * (1 - np.eye(4)), axis=1))
        np.testing.assert_allclose(np.mean(others - positive), known["nt_xent_loss_of_output"], rtol=1e-5)


def test_simclr_is_cola_with_the_dot_product_unless_told(shared, tmp_path):
    source = shared / "oracles" / "audax" / "simclr.checkpoint"
    for model, described in (
        ("COLA", {"type": "COLA", "width": 16, "similarity": "dot"}),
        ("SimCLR", {"type": "SimCLR", "width": 16, "linear": True}),
    ):
        folder = zoo.convert(source, tmp_path / model, model=model)
        assert zoo.info(folder).model == described
    default = zoo.convert(source, tmp_path / "default")
    assert zoo.info(default).model["type"] == "COLA"
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("COLA", "SimCLR", "default")]
    for name, array in files[0].items():
        assert all(np.array_equal(array, each[name]) for each in files)


# Other sizes, in audax's own layout


def dense(path, *shape, bias=False):
    return {f"{path}/kernel": shape} | ({f"{path}/bias": shape[-1:]} if bias else {})


def norm(path, width, statistics=True):
    return {f"{path}/{leaf}": (width,) for leaf in ("scale", "bias", *(("mean", "var") if statistics else ()))}


def convnext(depths, widths):
    shapes = dense("encoder/Conv_0", 4, 4, 1, widths[0], bias=True) | norm("encoder/LayerNorm_0", widths[0], False)
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        path = f"encoder/ConvNeXtStage_{stage}"
        if stage:
            shapes |= norm(f"{path}/LayerNorm_0", widths[stage - 1], False)
            shapes |= dense(f"{path}/Conv_0", 2, 2, widths[stage - 1], width, bias=True)
        for block in range(depth):
            inner = f"{path}/ConvNeXtBlock_{block}"
            shapes |= dense(f"{inner}/Conv_0", 7, 7, 1, width, bias=True) | norm(f"{inner}/LayerNorm_0", width, False)
            shapes |= dense(f"{inner}/Mlp_0/Dense_0", width, 4 * width, bias=True)
            shapes |= dense(f"{inner}/Mlp_0/Dense_1", 4 * width, width, bias=True) | {f"{inner}/gamma": (width,)}
    return shapes


def resnet(depths, width, bottleneck):
    shapes = dense("encoder/conv_init", 7, 7, 1, width) | norm("encoder/bn_init", width)
    inputs, index = width, 0
    for stage, depth in enumerate(depths):
        inner = width * 2**stage
        outputs = 4 * inner if bottleneck else inner
        kernels = [(1, 1, inner), (3, 3, inner), (1, 1, outputs)] if bottleneck else [(3, 3, inner), (3, 3, outputs)]
        for block in range(depth):
            path = f"encoder/{'Bottleneck' if bottleneck else ''}ResNetBlock_{index}"
            before = inputs
            for number, (height, freq, after) in enumerate(kernels):
                shapes |= dense(f"{path}/Conv_{number}", height, freq, before, after)
                shapes |= norm(f"{path}/BatchNorm_{number}", after)
                before = after
            if inputs != outputs or (stage and block == 0):
                shapes |= dense(f"{path}/conv_proj", 1, 1, inputs, outputs) | norm(f"{path}/norm_proj", outputs)
            inputs, index = outputs, index + 1
    return shapes


def conv_norm(path, *shape):
    return dense(f"{path}/Conv_0", *shape) | norm(f"{path}/BatchNorm_0", shape[-1])


def efficientnet(depths, widths):
    shapes = conv_norm("encoder/ConvNormActivation_0", 3, 3, 1, widths[0])
    inputs, index = widths[0], 0
    for depth, outputs, kernel, expansion in zip(
        depths, widths[1:], (3, 3, 5, 3, 5, 5, 3), (1, 6, 6, 6, 6, 6, 6), strict=True
    ):
        for _ in range(depth):
            path, inner = f"encoder/MBConv_{index}", expansion * inputs
            layers = [(1, 1, inputs, inner)] if expansion > 1 else []
            layers += [(kernel, kernel, 1, inner), (1, 1, inner, outputs)]
            for number, shape in enumerate(layers):
                shapes |= conv_norm(f"{path}/ConvNormActivation_{number}", *shape)
            squeezed = max(1, inputs // 4)
            shapes |= dense(f"{path}/SqueezeAndExcitation_0/reduce", 1, 1, inner, squeezed)
            shapes |= dense(f"{path}/SqueezeAndExcitation_0/expand", 1, 1, squeezed, inner)
            inputs, index = outputs, index + 1
    return shapes | conv_norm("encoder/ConvNormActivation_1", 1, 1, widths[-1], 4 * widths[-1])


def leaf(bins):
    per_bin = {f"frontend/compression/{name}": (bins,) for name in ("alpha", "delta", "root")}
    return per_bin | {
        "frontend/compression/ExponentialMovingAverage_0/smooth": (bins,),
        "frontend/complex_conv/gabor_kernel": (bins, 2),
        "frontend/pooling/kernel": (1, 1, bins, 1),
    }


def sincnet(bins):
    return {"frontend/complex_conv/sinc_kernel": (bins, 2)} | norm("frontend/compression", bins, False)


def classifier(inputs, classes):
    return dense("fc", inputs, classes, bias=True)


def contrastive(inputs, width, bilinear):
    shapes = dense("embedding_fc", inputs, width)
    if bilinear:
        shapes |= norm("bilinear_layernorm", width, False)
        shapes |= {"similarity_layer/bilinear_product_weight": (width, width)}
    return shapes


def seeded(shapes, dtype=np.float32):
    """Numbers that tell each array from all others."""
    generator = np.random.default_rng(0)
    arrays = {name: generator.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    for name, array in arrays.items():  # so that no output is NaN, which would not be saved
        if name.endswith("/var"):
            np.abs(array, out=array)
        elif name.endswith("/kernel"):
            array /= np.sqrt(array[..., 0].size)
    return arrays


def packed(array):
    """Flax's extension type."""
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def nested(arrays):
    tree = {}
    for name, array in arrays.items():
        *branches, leaf = name.split("/")
        branch = tree
        for each in branches:
            branch = branch.setdefault(each, {})
        branch[leaf] = packed(array)
    return tree


def write(path, arrays, frozen=()):
    """A train state; what begins with one of `frozen` goes to the frozen parameters."""
    statistics = {name for name in arrays if name.endswith(("/mean", "/var"))}
    still = {name for name in arrays if name.startswith(tuple(frozen))} - statistics

    def part(names):
        return nested({name: array for name, array in arrays.items() if name in names})

    state = {
        "step": 1234,
        "batch_stats": part(statistics),
        "dynamic_scale": None,
        "params": part(arrays.keys() - statistics - still),
        "frozen_params": part(still),
        "aux_rng_keys": {"dropout": packed(np.zeros(2, np.uint32))},
        "opt_state": {"0": {"count": packed(np.int32(7)), "mu": part(arrays.keys() - statistics - still)}},
    }
    path.write_bytes(msgpack.packb(state))
    return path


@pytest.mark.parametrize(
    "name, shapes",
    [
        ("convnext", convnext((1, 1, 2, 1), (8, 16, 24, 32)) | classifier(32, 7)),
        ("cola_bilinear", convnext((1, 1, 2, 1), (8, 16, 24, 32)) | contrastive(32, 16, True)),
        ("cola_dot", convnext((1, 1, 2, 1), (8, 16, 24, 32)) | contrastive(32, 16, False)),
        ("efficientnet", efficientnet((1, 1, 1, 2, 2, 2, 1), (8, 8, 8, 16, 24, 32, 48, 80)) | classifier(320, 7)),
        ("resnet_basic", resnet((1, 2, 1, 1), 8, False) | classifier(64, 7)),
        ("resnet_bottleneck", resnet((1, 1, 2, 1), 8, True) | classifier(256, 7)),
        ("leaf_convnext", convnext((1, 1, 2, 1), (8, 16, 24, 32)) | classifier(32, 7) | leaf(64)),
        ("sincnet_convnext", convnext((1, 1, 2, 1), (8, 16, 24, 32)) | classifier(32, 7) | sincnet(64)),
    ],
)
def test_the_layouts_of_these_tests_are_those_of_audax(shared, name, shapes):
    theirs = read_train_state(shared / "oracles" / "audax" / f"{name}.checkpoint")
    assert {key: array.shape for key, array in theirs.items()} == shapes


SAME = {"padding": "same"}
NARROW = (8, 8, 8, 16, 24, 32, 40, 48)
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
    shapes, described, places = CASES[case]
    arrays = seeded(shapes)
    folder = zoo.convert(write(tmp_path / "checkpoint_9", arrays), tmp_path / "made")
    entry = zoo.info(folder)
    wanted = {
        "name": "made",
        "frontend": {"type": "audax_log_mel", "sample_rate": 16000},
        "model": {"type": "Classifier"},
        "classes": 3,
        "task": "multiclass",
        "window": 5.0,
        "labels": (),
        "checkpoint": None,
    } | described
    assert {field: getattr(entry, field) for field in wanted} == wanted
    loaded = load_file(folder / "model.safetensors")
    assert sorted(np.sort(array.ravel()).tobytes() for array in arrays.values()) == sorted(
        np.sort(array.ravel()).tobytes() for array in loaded.values()
    )
    for theirs, ours in places.items():
        array = arrays[theirs]
        if "sinc_kernel" in theirs or "gabor" in theirs or "bilinear_product" in theirs:
            moved = array
        elif array.shape[:-2] in ((), (1, 1)) and array.ndim > 1:
            moved = array.reshape(array.shape[-2:]).T
        else:
            moved = array
        np.testing.assert_array_equal(np.squeeze(loaded[ours]), np.squeeze(moved), err_msg=theirs)


def tiny(**changes):
    """A small checkpoint's arrays; None takes one away."""
    shapes = convnext((1, 1, 1, 1), (4, 4, 8, 8)) | convnext((1, 1, 1, 1), (4, 8, 12, 16)) | classifier(16, 3)
    arrays = seeded(shapes) | changes
    return {name: array for name, array in arrays.items() if array is not None}


def test_a_linear_probes_encoder_comes_from_its_frozen_parameters(tmp_path):
    arrays = seeded(resnet((1, 1, 1, 1), 4, False) | classifier(32, 3))
    probe = write(tmp_path / "probe", arrays, frozen=("encoder/",))
    tree = msgpack.unpackb(probe.read_bytes(), ext_hook=lambda code, data: None)
    assert list(tree["params"]) == ["fc"] and list(tree["frozen_params"]) == ["encoder"]
    whole = zoo.convert(write(tmp_path / "whole", arrays), tmp_path / "a")
    frozen = zoo.convert(probe, tmp_path / "b")
    assert (frozen / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    head = load_file(frozen / "model.safetensors")["head.weight"]
    np.testing.assert_array_equal(head, arrays["fc/kernel"].T)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_half_precision_arrays_become_float32_without_loss(tmp_path, dtype):
    arrays = {name: array.astype(dtype) for name, array in tiny().items()}
    loaded = load_file(zoo.convert(write(tmp_path / "half", arrays), tmp_path / "made") / "model.safetensors")
    assert {array.dtype for array in loaded.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(loaded["head.weight"], arrays["fc/kernel"].astype(np.float32).T)
    np.testing.assert_array_equal(
        loaded["network.stages.1.blocks.0.depthwise.weight"],
        arrays["encoder/ConvNeXtStage_1/ConvNeXtBlock_0/Conv_0/kernel"].astype(np.float32),
    )


def test_what_no_array_tells_is_a_parameter(tmp_path):
    source = write(tmp_path / "source", tiny())
    folder = zoo.convert(
        source, tmp_path / "made", sample_rate=22050, window=0.5, labels=("x", "y", "z"), task="multilabel"
    )
    entry = zoo.info(folder)
    assert (entry.sample_rate, entry.window, entry.labels, entry.task) == (22050, 0.5, ("x", "y", "z"), "multilabel")
    assert zoo.load(folder).labels == ("x", "y", "z")


def test_the_folder_lies_beside_the_checkpoint_unless_named(tmp_path):
    source = write(tmp_path / "checkpoint_123", tiny())
    folder = zoo.convert(source)
    assert folder == tmp_path / "checkpoint_123_audax_eqx"
    assert zoo.load(folder).entry.name == "checkpoint_123_audax_eqx"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint_123", "checkpoint_123_audax_eqx"}
    assert {path.name for path in folder.iterdir()} == FILES


def test_converting_again_replaces_the_folder(tmp_path):
    first = zoo.convert(write(tmp_path / "first", tiny()), tmp_path / "made", labels=("x", "y", "z"))
    other = tiny(**{"fc/kernel": np.ones((16, 4), np.float32), "fc/bias": np.zeros(4, np.float32)})
    again = zoo.convert(str(write(tmp_path / "other", other)), str(tmp_path / "made"))
    assert first == again
    assert (zoo.info(again).classes, zoo.info(again).labels) == (4, ())
    np.testing.assert_array_equal(load_file(again / "model.safetensors")["head.weight"], np.ones((4, 16)))
    assert {path.name for path in again.iterdir()} == FILES


# What is no checkpoint of audax


def refused(source, fault, folder, kind=ValueError, **options):
    """One sentence that names the file, and nothing is written."""
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(kind, match=fault) as raised:
        zoo.convert(source, folder / "made", **options)
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".")
    assert {path.name for path in folder.iterdir()} == before
    return message


def test_a_missing_file_is_named(tmp_path):
    assert "checkpoint_123" in refused(tmp_path / "none", "none does not exist", tmp_path, FileNotFoundError)


def test_a_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "run").mkdir()
    refused(tmp_path / "run", "run is a folder: name the checkpoint in it", tmp_path)


@pytest.mark.parametrize(
    "content, fault",
    [
        (b"", "is not a whole audax checkpoint"),
        (b"\xc1\xff\x00 no msgpack", "is not a whole audax checkpoint"),
        (b"PK\x03\x04" + bytes(100), "file is "),
        (msgpack.packb([1, 2]), "holds no train state"),
        (msgpack.packb("text"), "holds no train state"),
        (msgpack.packb({"step": 3}), "holds no train state"),
        (msgpack.packb({"params": None}), "holds no train state"),
        (msgpack.packb({"params": {}}), "as its encoder, but none"),
        (msgpack.packb({"params": {"fc": {"kernel": msgpack.ExtType(1, b"\xc1")}}}), "is not a whole audax checkpoint"),
        (
            msgpack.packb({"params": {"fc": {"kernel": msgpack.ExtType(1, msgpack.packb(((2, 3), "float32", b"")))}}}),
            "is not a whole audax checkpoint",
        ),
        (
            msgpack.packb({"params": {"fc": {"kernel": msgpack.ExtType(1, msgpack.packb(((0,), "float99", b"")))}}}),
            "is not a whole audax checkpoint",
        ),
    ],
)
def test_a_file_that_is_no_train_state_is_refused(tmp_path, content, fault):
    (tmp_path / "file").write_bytes(content)
    assert "file" in refused(tmp_path / "file", fault, tmp_path)


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep):
    source = write(tmp_path / "cut", tiny())
    content = source.read_bytes()
    source.write_bytes(content[: int(keep * len(content))])
    assert len(refused(source, "cut is not a whole audax checkpoint", tmp_path)) < 300


def test_an_unknown_encoder_is_named(tmp_path):
    arrays = seeded(dense("encoder/ViT_0/Dense_0", 4, 4) | dense("encoder/Embed_0", 4, 4) | classifier(4, 3))
    refused(write(tmp_path / "vit", arrays), r"no ResNet, EfficientNet or ConvNeXt.*\['Embed_0', 'ViT_0'\]", tmp_path)


def test_a_model_without_a_head_is_refused(tmp_path):
    arrays = tiny(**{"fc/kernel": None, "fc/bias": None})
    refused(write(tmp_path / "headless", arrays), "neither a classifier's `fc` nor the `embedding_fc`", tmp_path)


@pytest.mark.parametrize(
    "missing, fault",
    [
        ("encoder/ConvNeXtStage_1/ConvNeXtBlock_0/gamma", r"stages\.1\.blocks\.0\.layer_scale is missing"),
        ("encoder/Conv_0/bias", r"network\.stages\.0\.reduce\.patchify\.bias is missing"),
        ("encoder/ConvNeXtStage_2/ConvNeXtBlock_0/Conv_0/kernel", "ConvNeXtStage_2/ConvNeXtBlock_0/Conv_0/kernel"),
        ("fc/bias", r"head\.bias is missing"),
    ],
)
def test_a_missing_array_is_named(tmp_path, missing, fault):
    refused(write(tmp_path / "holed", tiny(**{missing: None})), rf"holed.*{fault}", tmp_path)


@pytest.mark.parametrize(
    "surplus", ["fc_norm/scale", "encoder/ConvNeXtStage_0/ConvNeXtBlock_0/Dense_9/kernel", "frontend/mel"]
)
def test_a_surplus_array_is_named(tmp_path, surplus):
    arrays = tiny(**{surplus: np.zeros((2, 2), np.float32)})
    refused(write(tmp_path / "more", arrays), f"more.*{surplus} matches 0 rules", tmp_path)


def test_an_array_of_another_shape_is_named(tmp_path):
    arrays = tiny(**{"encoder/ConvNeXtStage_3/LayerNorm_0/scale": np.zeros(11, np.float32)})
    fault = r"stages\.3\.reduce\.norm\.weight is \(11,\) instead of \(12,\)"
    refused(write(tmp_path / "odd", arrays), fault, tmp_path)


@pytest.mark.parametrize(
    "shapes, missing",
    [
        (resnet((2, 2, 1, 1), 4, False), "encoder/ResNetBlock_1"),
        (efficientnet((1, 2, 1, 1, 1, 1, 1), NARROW), "encoder/MBConv_0"),
        (convnext((1, 1, 1, 1), (4, 8, 12, 16)), "encoder/ConvNeXtStage_1"),
    ],
)
def test_a_missing_block_is_named(tmp_path, shapes, missing):
    kept = {name: shape for name, shape in shapes.items() if not name.startswith(f"{missing}/")}
    assert len(kept) < len(shapes)
    refused(write(tmp_path / "gap", seeded(kept | classifier(4, 3))), f"gap.*it has no .*{missing}", tmp_path)


def test_an_efficientnet_too_narrow_to_tell_its_stages_apart_is_refused(tmp_path):
    arrays = seeded(efficientnet((1,) * 7, (8, 8, 8, 8, 8, 8, 8, 8)) | classifier(32, 3))
    refused(write(tmp_path / "narrow", arrays), r"narrow holds an EfficientNet of 6 stages.*instead of 7", tmp_path)


@pytest.mark.parametrize(
    "labels, fault", [(("a",), "3 classes and 1 labels"), (tuple("abcd"), "3 classes and 4 labels")]
)
def test_a_wrong_number_of_labels_is_told(tmp_path, labels, fault):
    refused(write(tmp_path / "source", tiny()), fault, tmp_path, labels=labels)


def test_labels_for_a_model_without_classes_are_told(tmp_path):
    arrays = seeded(resnet((1, 1, 1, 1), 4, False) | contrastive(32, 8, False))
    refused(write(tmp_path / "source", arrays), "0 classes and 2 labels", tmp_path, labels=("a", "b"))


def test_a_window_of_no_length_is_refused(tmp_path):
    refused(write(tmp_path / "source", tiny()), "a window of some seconds", tmp_path, window=0.0)


def test_a_folder_below_no_folder_is_not_made(tmp_path):
    source = write(tmp_path / "source", tiny())
    with pytest.raises(FileNotFoundError, match="none is no folder, so made cannot be made there"):
        zoo.convert(source, tmp_path / "none" / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_text_in_place_of_numbers_is_refused(tmp_path):
    arrays = tiny(**{"fc/bias": np.array(["a", "b", "c"])})
    refused(write(tmp_path / "text", arrays), "text", tmp_path)


def test_options_that_contradict_the_checkpoint_are_refused(tmp_path):
    source = write(tmp_path / "source", tiny())
    for options, fault in (
        ({"task": "regression"}, "takes the task 'multiclass' or 'multilabel', got 'regression'"),
        ({"model": "cola"}, "takes the model 'COLA' or 'SimCLR', got 'cola'"),
        ({"model": "SimCLR"}, "holds a Classifier, not the SimCLR"),
        ({"sample_rate": 8000}, "mel filters up to 7800 Hz"),
        ({"window": float("inf")}, "a window of some seconds"),
    ):
        with pytest.raises(ValueError, match=fault):
            zoo.convert(source, tmp_path / "made", **options)
    assert not (tmp_path / "made").exists()
    labels = [f"label {index}" for index in range(read_train_state(source)["fc/bias"].size)]
    assert zoo.info(zoo.convert(source, tmp_path / "made", labels=labels)).labels == tuple(labels)
