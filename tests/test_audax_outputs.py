"""Checkpoints of audax give the outputs that audax gave."""

import json

import equinox as eqx
import numpy as np
import pytest
from audax_files import classifier, contrastive, convnext, efficientnet, leaf, resnet, sincnet
from safetensors.numpy import load_file
from tiny import difference

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
    path = zoo.convert(folder / f"{name}.checkpoint", tmp_path / "made", window=2.0, **options)
    clip = zoo.load(path)
    assert path == tmp_path / "made" and clip.entry.name == "made"
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
    for model, description in (
        ("COLA", {"type": "COLA", "width": 16, "similarity": "dot"}),
        ("SimCLR", {"type": "SimCLR", "width": 16, "linear": True}),
    ):
        folder = zoo.convert(source, tmp_path / model, model=model)
        assert zoo.info(folder).model == description
    default = zoo.convert(source, tmp_path / "default")
    assert zoo.info(default).model["type"] == "COLA"
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("COLA", "SimCLR", "default")]
    for name, array in files[0].items():
        assert all(np.array_equal(array, each[name]) for each in files)


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
