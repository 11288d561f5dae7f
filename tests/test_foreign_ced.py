"""CEDs in transformers' own layout."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from foreign_files import add_weights, describe, expect_sentence

import zoo
from zoo._leaves import named_leaves

CED = {  # as CedConfig writes it
    "architectures": ["CedForAudioClassification"],
    "attn_drop_rate": 0.0,
    "center": True,
    "depth": 2,
    "drop_path_rate": 0.0,
    "drop_rate": 0.0,
    "embed_dim": 24,
    "eval_avg": "mean",
    "f_max": 8000,
    "f_min": 0,
    "hop_size": 160,
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "loss": "BCE",
    "mlp_ratio": 2.5,
    "model_type": "ced",
    "n_fft": 512,
    "n_mels": 40,
    "name": None,
    "num_heads": 3,
    "outputdim": 3,
    "pad_last": True,
    "patch_size": 8,
    "patch_stride": 8,
    "pooling": "mean",
    "qkv_bias": False,
    "target_length": 101,
    "win_size": 512,
}
CED_EXTRACTOR = {
    "center": True,
    "f_max": None,
    "f_min": 0,
    "feature_extractor_type": "CedFeatureExtractor",
    "feature_size": 40,
    "hop_size": 80,
    "n_fft": 256,
    "padding_side": "right",
    "padding_value": 0.0,
    "sampling_rate": 8000,
    "win_size": 200,
}


def test_a_config_of_ced_says_it_all(tmp_path):
    entry = zoo.info(describe(tmp_path / "mine", CED, CED_EXTRACTOR))
    assert entry.frontend == {
        "type": "torchaudio_log_mel",
        "sample_rate": 8000,
        "bins": 40,
        "n_fft": 256,
        "win_length": 200,
        "hop_length": 80,
        "f_min": 0,
        "f_max": None,
        "framing": "center",
        "top_db": 120.0,
    }
    assert entry.network == {
        "type": "CED",
        "width": 24,
        "depth": 2,
        "heads": 3,
        "bins": 40,
        "frames": 101,
        "patch": 8,
        "mlp_width": 60,
        "qkv_bias": False,
    }
    assert entry.model == {"type": "Classifier", "norm": 1e-5}
    assert (entry.name, entry.classes, entry.labels, entry.window) == ("mine", 3, ("a", "b", "c"), 1.0)
    model, _ = eqx.filter_eval_shape(zoo.create, entry, key=jax.random.key(0))
    wave = jax.ShapeDtypeStruct((round(entry.window * 8000),), jnp.float32)
    assert eqx.filter_eval_shape(model.frontend, wave).shape == (101, 40)  # the window is one chunk
    framed = zoo.info(describe(tmp_path / "mine", CED, CED_EXTRACTOR | {"center": False})).frontend
    assert framed["framing"] == "valid"


def test_what_a_config_of_ced_leaves_out_is_its_publishers_default(tmp_path):
    default = zoo.info(describe(tmp_path / "bare", {"model_type": "ced"}, {}))
    for size in ("tiny", "base"):
        entry = zoo.info(describe(tmp_path / size, {"model_type": "ced", "name": f"ced-{size}"}, {}))
        published = zoo.info(f"ced_{size}_audioset")
        ours, theirs = (eqx.filter_eval_shape(zoo.create, each, key=jax.random.key(0)) for each in (entry, published))
        assert {name: leaf.shape for name, leaf in named_leaves(*ours).items()} == {
            name: leaf.shape for name, leaf in named_leaves(*theirs).items()
        }
        assert (entry.classes, entry.task, entry.labels) == (527, "multilabel", ())
    assert default.network == entry.network


@pytest.mark.parametrize("labels", [None, {str(index): "AudioSet's" for index in range(527)}])
def test_a_ced_has_its_outputs_and_no_labels_of_another_number(tmp_path, labels):
    entry = zoo.info(describe(tmp_path / "x", CED | {"outputdim": 50, "id2label": labels}, CED_EXTRACTOR))
    assert (entry.classes, entry.labels) == (50, ())


@pytest.mark.parametrize(
    "pooling, loss, task",
    [
        ("mean", "BCE", "multilabel"),
        ("mean", "CrossEntropyLoss", "multilabel"),
        ("logit", "BCEWithLogitsLoss", "multilabel"),
        ("logit", "CrossEntropyLoss", "multiclass"),
    ],
)
def test_the_task_of_a_ced_is_what_its_last_layer_does(tmp_path, pooling, loss, task):
    config = CED | {"pooling": pooling, "loss": loss}
    assert zoo.info(describe(tmp_path / "x", config, CED_EXTRACTOR)).task == task


@pytest.mark.parametrize(
    "fields, fault",
    [
        ({"pooling": "token"}, "x has the pooling 'token': the zoo has 'mean' or 'logit'"),
        ({"patch_stride": 4}, "x has the patch_stride 4: the zoo has 8"),
        ({"pad_last": False}, "x has the pad_last False: the zoo has True"),
        ({"eval_avg": "max"}, "x has the eval_avg 'max': the zoo has 'mean'"),
        ({"init_values": 1e-5}, "x has the init_values 1e-05: the zoo has None"),
        ({"n_mels": 64}, "x has the n_mels 64 in its config.json, and the feature_size 40 in its preprocessor_config"),
        ({"wavtransforms": "gain"}, r"x has the field wavtransforms \('gain'\), which the zoo does not know"),
        ({"id2label": {"0": "a", "1": "b", "3": "c"}}, r"x needs labels 0, 1, \.\.\. in the id2label"),
        ({"id2label": ["a", "b", "c"]}, r"x has a field of the wrong type in its config\.json"),
        ({"embed_dim": "wide"}, "wide"),
        ({"name": ["ced-tiny"]}, r"x has a field of the wrong type in its config\.json"),
        ({"num_heads": 5}, "choose heads that divide 24, got 5"),
        ({"target_length": 0}, "frames=0|window"),
    ],
)
def test_a_ced_that_cannot_be_built_is_told_in_a_sentence(tmp_path, fields, fault):
    expect_sentence(add_weights(describe(tmp_path / "x", CED | fields, CED_EXTRACTOR)), fault)


@pytest.mark.parametrize("rate, fault", [(0, "x needs a frontend with a sample_rate in Hz.*got 0"), ("16 kHz", "type")])
def test_a_ced_needs_a_sample_rate(tmp_path, rate, fault):
    folder = add_weights(describe(tmp_path / "x", CED, CED_EXTRACTOR | {"sampling_rate": rate}))
    expect_sentence(folder, fault)


def test_a_ced_without_its_extractor_is_told(tmp_path):
    folder = add_weights(describe(tmp_path / "x", CED, None))
    expect_sentence(folder, r"x holds no preprocessor_config\.json", FileNotFoundError)
