"""Configurations that mean harm or make no sense: each is refused in one sentence, before anything is built."""

import dataclasses

import hostile
import jax
import numpy as np
import pytest
from hostile import TINY, expect_refusal, rewrite
from safetensors.numpy import save_file

import zoo
import zoo._load

copy = hostile.copy


AST = {"model_type": "audio-spectrogram-transformer", "id2label": {"0": "a", "1": "b"}, "hidden_size": 24}
EXTRACTOR = {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16000}


@pytest.fixture
def unbuilt(monkeypatch):
    """Building anything is a failure."""

    def build(entry):
        raise AssertionError(f"{entry.name} was built")

    monkeypatch.setattr(zoo._load, "skeleton", build)


LOG_MEL, CONVNEXT = TINY.frontend, TINY.network
CONTRASTIVE = {"classes": 0, "task": "contrastive", "labels": ()}
METRIC = {"dataset": "d", "metric": "m", "value": 0.5, "source": "s"}


@pytest.mark.parametrize(
    "fields, part",
    [
        ({"network": CONVNEXT | {"depths": [10**9]}}, "asks for depths 1e+09"),
        ({"network": CONVNEXT | {"depths": [200, 200]}}, "asks for a depth of 400, and the zoo builds up to 256"),
        ({"network": {"type": "CNN", "widths": [1] * 900, "pools": [1] * 900}}, "asks for a depth of 900"),
        ({"network": {"type": "CNN", "widths": [1], "pools": [2**20]}}, "asks for pools 1.04858e+06"),
        ({"network": {"type": "ECAPA", "parts": 10**5}}, "asks for a depth of 100000"),
        ({"network": {"type": "ECAPA", "parts": 64, "taps": [1] * 5}}, "asks for a depth of 320"),
        ({"network": {"type": "DyMN", "pieces": 10**5}}, "asks for pieces 100000, and the zoo builds up to 64"),
        ({"network": {"type": "XVector", "kernels": [10**5]}}, "asks for kernels 100000"),
        ({"model": {"type": "CLAP", "text": {"depth": -1}}, **CONTRASTIVE}, "asks for a depth of -1"),
        ({"network": CONVNEXT | {"stem_padding": [2**20, 2**20]}}, "asks for stem_padding 1.04858e+06"),
        ({"network": CONVNEXT | {"drop_path": 1e8}}, "asks for drop_path 100000000.0: it is a share"),
        ({"network": CONVNEXT | {"drop_path": -3}}, "asks for drop_path -3: it is a share"),
        ({"network": CONVNEXT | {"depths": [-1]}}, "asks for a depth of -1"),
        ({"network": CONVNEXT | {"widths": [10**12]}}, "asks for widths 1e+12"),
        ({"network": CONVNEXT | {"widths": [1e300]}}, "asks for widths 1e+300"),
        ({"network": CONVNEXT | {"widths": [10**3000]}}, "asks for widths beyond 1e300"),
        ({"network": CONVNEXT | {"widths": [4] * 10**6}}, "a widths of length 1e+06"),
        ({"network": CONVNEXT | {"drop_path": float("nan")}}, "asks for drop_path nan"),
        ({"network": CONVNEXT | {"layer_scale": float("inf")}}, "asks for layer_scale inf"),
        ({"network": CONVNEXT | {"pool": "m" * 10**6}}, "a pool of length 1e+06"),
        ({"network": {"type": "AST", "width": 4, "heads": 1, "depth": 10**9}}, "asks for depth 1e+09"),
        ({"frontend": LOG_MEL | {"n_fft": 10**12}}, "asks for n_fft 1e+12"),
        ({"frontend": LOG_MEL | {"n_fft": 2**20, "hop_length": 1}}, "asks for numbers a second 8.38861e+09"),
        ({"frontend": {"type": "LEAF", "sample_rate": 10**6, "bins": 64}}, "numbers a second 6.4e+07"),
        ({"frontend": LOG_MEL | {"bins": 10**5}}, "asks for bins 100000, and the zoo builds up to 1024"),
        ({"frontend": LOG_MEL | {"bins": 1000, "n_fft": 10**6}}, "asks for a table of size 1e+09"),
        ({"frontend": {"type": "KaldiFbank", "sample_rate": 10**6, "frame_length": 1e6}}, "a table of size"),
        ({"frontend": {"type": "LEAF", "sample_rate": 16000, "bins": 64, "window_ms": 1e8}}, "a table of size"),
        ({"frontend": LOG_MEL | {"sample_rate": 10**12}}, "asks for sample_rate 1e+12"),
        ({"model": {"type": "COLA", "width": 10**12}, **CONTRASTIVE}, "asks for width 1e+12"),
        ({"frontend": LOG_MEL | {"sample_rate": True}}, "a sample_rate in Hz, classes and a window of some seconds"),
        ({"window": True}, "a sample_rate in Hz, classes and a window of some seconds"),
        ({"dropout": float("nan")}, "asks for dropout nan: it is a share of at least 0 and below 1"),
        ({"dropout": -5}, "asks for dropout -5"),
        ({"dropout": 1e300}, "asks for dropout 1e+300"),
        ({"dropout": "a" * 10**6}, "aaa"),
        ({"name": "a" * 10**6}, "asks for a text of length 1e+06"),
        ({"name": "a\n" * 10**6, "classes": 4}, "a a a"),
        ({"name": "\ud800"}, r"holds '\ud800' where a line of text is needed"),
        ({"license": "a" * 10**6}, "asks for a text of length 1e+06"),
        ({"labels": ["a", "b", "c" * 10**6]}, "asks for a text of length 1e+06"),
        ({"metrics": [METRIC | {"source": "a" * 10**6}]}, "asks for a text of length 1e+06"),
        ({"metrics": [METRIC | {"value": float("nan")}]}, "asks for a metric of nan"),
        ({"metrics": [METRIC | {"value": 10**3000}]}, "asks for a metric of beyond 1e300"),
        ({"metrics": [METRIC | {"value": True}]}, "a metric that is not the strings"),
        ({"a" * 10**6: 1}, "unknown ['aaa"),
        ({"window": 1e9}, "asks for a window of seconds 1e+09, and the zoo builds up to 3600"),
        ({"classes": 10**12, "labels": ()}, "asks for classes 1e+12"),
        ({"name": "tiny\n\x1b[2J"}, r"holds 'tiny\n\x1b[2J' where a line of text is needed"),
        ({"network": CONVNEXT | {"type": "a\x1b[2J"}}, "where a line of text is needed"),
        ({"network": CONVNEXT | {"a\x1b[2J": 1}}, "where a line of text is needed"),
        ({"labels": ["a", "b", "c\x1b]0;c\x07"]}, "where a line of text is needed"),
        ({"labels": ["a", "b", 3]}, "config.json"),
        ({"metrics": [{}]}, "a metric that is not the strings dataset, metric and source, and a number value"),
        ({"metrics": [{"dataset": [], "metric": "m", "value": 1, "source": "s"}]}, "a metric that is not the strings"),
        ({"metrics": ["good"]}, "wrong type"),
        ({"checkpoint": {"repo": "a/b", "table": "ast", "label_file": "../../x"}}, "unknown ['checkpoint']"),
    ],
)
def test_an_absurd_config_is_refused_before_anything_is_built(copy, unbuilt, fields, part):
    rewrite(copy, **fields)
    expect_refusal(copy, "config.json", part)


@pytest.mark.parametrize(
    "text, part",
    [
        (b"[" * 10**6, "more than 10000 lists and objects"),
        (b"[" * 9000, "is not JSON (maximum recursion depth"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "is not the config.json of an audax-eqx model"),
        (b'{"network": ' + b"[" * 900 + b"]" * 900 + b"}", "config.json"),
        (b'{"classes": ' + b"1" * 5000 + b"}", "is not JSON (Exceeds the limit (4300 digits)"),
        (b'{"name": "\xff"}', "config.json is not text in UTF-8 (byte 10)"),
    ],
)
def test_json_that_nobody_writes_is_refused(copy, unbuilt, text, part):
    (copy / "config.json").write_bytes(text)
    expect_refusal(copy, part)


@pytest.mark.parametrize(
    "fields",
    [
        {"network": CONVNEXT | {"widths": [2**20]}},
        {"network": {"type": "AST", "width": 2**18, "heads": 1, "depth": 2}},
        {"network": {"type": "ResNet", "depths": [1, 1], "widths": [8, 2**20]}},
        {"model": {"type": "COLA", "width": 2**20}, "network": CONVNEXT | {"widths": [2**13]}, **CONTRASTIVE},
    ],
)
def test_parameters_are_counted_before_there_is_any(copy, fields):
    rewrite(copy, **fields)
    expect_refusal(copy, "tiny describes a model of", "e+", "parameters, and the zoo loads up to 4.29e+09")


@pytest.mark.parametrize(
    "config, extractor, part",
    [
        ({"num_hidden_layers": 10**9}, {}, "asks for depth 1e+09"),
        ({"hidden_size": 10**12}, {}, "asks for width 1e+12"),
        ({}, {"sampling_rate": 10**12}, "asks for sample_rate 1e+12"),
        ({"num_mel_bins": 10**5}, {"num_mel_bins": 10**5}, "asks for bins 100000"),
        ({"max_length": 10**400}, {"max_length": 10**400}, "a field of the wrong type"),
        ({"max_length": 10**6}, {"max_length": 10**6}, "a window of seconds 10000"),
        ({"id2label": {"0": "a\x00", "1": "b"}}, {}, "where a line of text is needed"),
    ],
)
def test_an_absurd_config_of_another_library_is_refused(tmp_path, unbuilt, config, extractor, part):
    rewrite(tmp_path, **AST | config)
    rewrite(tmp_path, "preprocessor_config.json", **EXTRACTOR | extractor)
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    expect_refusal(tmp_path, part)


@pytest.mark.parametrize(
    "fields", [{"labels": ("a\tb", "b", "c")}, {"window": 4000.0}, {"license": "line\nline"}, {"dropout": 1.0}]
)
def test_nothing_is_saved_that_would_not_load(copy, tmp_path, fields):
    with pytest.raises(ValueError) as saved:
        zoo.save(tmp_path / "new", *zoo.create(TINY, key=jax.random.key(0)), dataclasses.replace(TINY, **fields))
    assert not (tmp_path / "new").exists()
    rewrite(copy, **fields)
    expect_refusal(copy, str(saved.value).removeprefix("The entry to save"))


def test_what_a_constructor_refuses_names_the_model(copy):
    rewrite(copy, frontend=LOG_MEL | {"hop_length": -1})
    expect_refusal(copy, "tiny: hop_length is -1 samples: it must be at least 1.")


def test_a_number_of_another_library_that_is_none_names_the_model(tmp_path):
    rewrite(tmp_path, model_type="ced", name="ced-tiny", mlp_ratio=float("nan"))
    rewrite(tmp_path, "preprocessor_config.json")
    expect_refusal(tmp_path, f"{tmp_path.name}: cannot convert float NaN to integer.")


DEEP = [
    {"type": "ConvNeXt", "depths": (64, 64, 64, 64), "widths": (4, 4, 4, 4)},
    {"type": "BEATs", "width": 8, "depth": 256, "heads": 1, "groups": 1, "kernel": 3},
    {"type": "ECAPA", "channels": 51, "parts": 51, "width": 8},
]


@pytest.mark.parametrize("network", DEEP, ids=lambda network: network["type"])
def test_the_deepest_model_that_is_built_is_compared_with_its_file(copy, network):
    rewrite(copy, network=network)
    expect_refusal(copy, "does not fit the model")
