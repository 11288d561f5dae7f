"""What is no checkpoint of audax, or does not fit the options, is refused in one sentence."""

import msgpack
import numpy as np
import pytest
from audax_files import (
    NARROW,
    classifier,
    contrastive,
    convnext,
    dense,
    efficientnet,
    resnet,
    seed,
    tiny_arrays,
    write_checkpoint,
)

import zoo
from zoo._flax import read_train_state


def expect_refusal(source, fault, folder, kind=ValueError, **options):
    """One sentence that names the file, and nothing is written."""
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(kind, match=fault) as raised:
        zoo.convert(source, folder / "made", **options)
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".")
    assert {path.name for path in folder.iterdir()} == before
    return message


def test_a_missing_file_is_named(tmp_path):
    assert "checkpoint_123" in expect_refusal(tmp_path / "none", "none does not exist", tmp_path, FileNotFoundError)


def test_a_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "run").mkdir()
    expect_refusal(tmp_path / "run", "run is a folder: name the checkpoint in it", tmp_path)


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
    assert "file" in expect_refusal(tmp_path / "file", fault, tmp_path)


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep):
    source = write_checkpoint(tmp_path / "cut", tiny_arrays())
    content = source.read_bytes()
    source.write_bytes(content[: int(keep * len(content))])
    assert len(expect_refusal(source, "cut is not a whole audax checkpoint", tmp_path)) < 300


def test_an_unknown_encoder_is_named(tmp_path):
    arrays = seed(dense("encoder/ViT_0/Dense_0", 4, 4) | dense("encoder/Embed_0", 4, 4) | classifier(4, 3))
    expect_refusal(
        write_checkpoint(tmp_path / "vit", arrays),
        r"no ResNet, EfficientNet or ConvNeXt.*\['Embed_0', 'ViT_0'\]",
        tmp_path,
    )


def test_a_model_without_a_head_is_refused(tmp_path):
    arrays = tiny_arrays(**{"fc/kernel": None, "fc/bias": None})
    expect_refusal(
        write_checkpoint(tmp_path / "headless", arrays), "neither a classifier's `fc` nor the `embedding_fc`", tmp_path
    )


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
    expect_refusal(write_checkpoint(tmp_path / "holed", tiny_arrays(**{missing: None})), rf"holed.*{fault}", tmp_path)


@pytest.mark.parametrize(
    "surplus", ["fc_norm/scale", "encoder/ConvNeXtStage_0/ConvNeXtBlock_0/Dense_9/kernel", "frontend/mel"]
)
def test_a_surplus_array_is_named(tmp_path, surplus):
    arrays = tiny_arrays(**{surplus: np.zeros((2, 2), np.float32)})
    expect_refusal(write_checkpoint(tmp_path / "more", arrays), f"more.*{surplus} matches 0 rules", tmp_path)


def test_an_array_of_another_shape_is_named(tmp_path):
    arrays = tiny_arrays(**{"encoder/ConvNeXtStage_3/LayerNorm_0/scale": np.zeros(11, np.float32)})
    fault = r"stages\.3\.reduce\.norm\.weight is \(11,\) instead of \(12,\)"
    expect_refusal(write_checkpoint(tmp_path / "odd", arrays), fault, tmp_path)


@pytest.mark.parametrize(
    "shapes, missing",
    [
        (resnet((2, 2, 1, 1), 4, False), "encoder/ResNetBlock_1"),
        (efficientnet((1, 2, 1, 1, 1, 1, 1), NARROW), "encoder/MBConv_0"),
        (convnext((1, 1, 1, 1), (4, 8, 12, 16)), "encoder/ConvNeXtStage_1"),
    ],
)
def test_a_missing_block_is_named(tmp_path, shapes, missing):
    rest = {name: shape for name, shape in shapes.items() if not name.startswith(f"{missing}/")}
    assert len(rest) < len(shapes)
    expect_refusal(
        write_checkpoint(tmp_path / "gap", seed(rest | classifier(4, 3))), f"gap.*it has no .*{missing}", tmp_path
    )


def test_an_efficientnet_too_narrow_to_tell_its_stages_apart_is_refused(tmp_path):
    arrays = seed(efficientnet((1,) * 7, (8, 8, 8, 8, 8, 8, 8, 8)) | classifier(32, 3))
    expect_refusal(
        write_checkpoint(tmp_path / "narrow", arrays),
        r"narrow holds an EfficientNet of 6 stages.*instead of 7",
        tmp_path,
    )


@pytest.mark.parametrize(
    "labels, fault", [(("a",), "3 classes and 1 labels"), (tuple("abcd"), "3 classes and 4 labels")]
)
def test_a_wrong_number_of_labels_is_told(tmp_path, labels, fault):
    expect_refusal(write_checkpoint(tmp_path / "source", tiny_arrays()), fault, tmp_path, labels=labels)


def test_labels_for_a_model_without_classes_are_told(tmp_path):
    arrays = seed(resnet((1, 1, 1, 1), 4, False) | contrastive(32, 8, False))
    expect_refusal(write_checkpoint(tmp_path / "source", arrays), "0 classes and 2 labels", tmp_path, labels=("a", "b"))


def test_a_window_of_no_length_is_refused(tmp_path):
    expect_refusal(
        write_checkpoint(tmp_path / "source", tiny_arrays()), "a window of some seconds", tmp_path, window=0.0
    )


def test_a_folder_below_no_folder_is_not_made(tmp_path):
    source = write_checkpoint(tmp_path / "source", tiny_arrays())
    with pytest.raises(FileNotFoundError, match="none is no folder, so made cannot be made there"):
        zoo.convert(source, tmp_path / "none" / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_text_in_place_of_numbers_is_refused(tmp_path):
    arrays = tiny_arrays(**{"fc/bias": np.array(["a", "b", "c"])})
    expect_refusal(write_checkpoint(tmp_path / "text", arrays), "text", tmp_path)


def test_options_that_contradict_the_checkpoint_are_refused(tmp_path):
    source = write_checkpoint(tmp_path / "source", tiny_arrays())
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
