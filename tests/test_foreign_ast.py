"""ASTs in transformers' own layout: from folders, and from the Hub's cache."""

import json

import equinox as eqx
import foreign_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_files import AST, EXTRACTOR, GOLDEN, add_weights, describe, expect_sentence
from hub_cache import make_snapshot
from safetensors.numpy import load_file, save_file
from tiny import difference

import zoo
from zoo._leaves import named_leaves

hub = foreign_files.hub


@eqx.filter_jit
def stages(clip, wave):
    features, _ = clip.model.network.features(clip.model.frontend(wave), clip.state)
    return {
        "features": clip.model.frontend(wave),
        "patches": features,
        "embedding": clip.embed(wave),
        "logits": clip(wave),
    }


def test_an_ast_folder_gives_what_transformers_gives(shared, tmp_path):
    clip = zoo.load(shared / "oracles" / "ast")
    with np.load(shared / "oracles" / "ast" / "golden.npz") as file:
        golden = dict(file)
    as_users_do = {"xla_backend_optimization_level": 3}
    features = jax.jit(clip.model.frontend, compiler_options=as_users_do)(golden["wave"])
    ours = stages(clip, golden["wave"]) | {"features": features}
    patches = golden["last_hidden"][2:].reshape(12, 101, 48).transpose(1, 0, 2)
    assert difference(ours["features"], golden["features"]) < 2e-5  # tests/test_kaldi.py says why not 1e-5
    assert difference(ours["patches"], patches) < 2e-5
    assert difference(ours["embedding"], golden["embedding"]) < 2e-5
    assert difference(ours["logits"], golden["logits"]) < 2e-5
    entry = clip.entry
    assert (entry.name, entry.classes, entry.task, entry.window) == ("ast", 9, "multiclass", 10.24)
    assert (entry.source, entry.license) == (None, None)
    exponents = np.exp(golden["logits"].astype(np.float64))
    best = np.argsort(-golden["logits"])[:3]
    top = clip.top(golden["wave"], k=3)
    assert [label for label, _ in top] == [f"class {index}" for index in best]
    np.testing.assert_allclose([value for _, value in top], (exponents / exponents.sum())[best], rtol=1e-4)

    zoo.save(tmp_path / "ours", clip.model, clip.state, clip.entry)
    again = zoo.load(tmp_path / "ours")
    assert again.entry.checkpoint is None and again.entry.network == entry.network
    for name, leaf in named_leaves(again.model, again.state).items():
        np.testing.assert_array_equal(leaf, named_leaves(clip.model, clip.state)[name])


@pytest.mark.parametrize("name", ["ast_audioset", "nobody/finetuned-ast"])
def test_an_ast_repo_describes_itself(shared, hub, name):
    repo = "MIT/ast-finetuned-audioset-10-10-0.4593" if name == "ast_audioset" else name
    folder = make_snapshot(hub, repo)
    for path in (shared / "oracles" / "ast").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    clip = zoo.load(name)
    local = zoo.load(shared / "oracles" / "ast")
    theirs = load_file(shared / "oracles" / "ast" / "model.safetensors")
    assert clip.entry.name == name and clip.labels == tuple(f"class {index}" for index in range(9))
    assert (clip.entry.network, clip.entry.frontend) == (local.entry.network, local.entry.frontend)
    np.testing.assert_array_equal(clip.model.head.weight, theirs["classifier.dense.weight"])
    for leaf, ours in named_leaves(clip.model, clip.state).items():
        np.testing.assert_array_equal(ours, named_leaves(local.model, local.state)[leaf])
    if name == "ast_audioset":
        assert (clip.entry.task, clip.entry.license) == ("multilabel", "BSD-3-Clause")
        assert clip.entry.metrics[0]["value"] == 0.4593
        assert zoo.info(name).classes == 527  # known without a network
    else:
        assert (clip.entry.task, clip.entry.license) == ("multiclass", None)
        assert clip.entry.source == "https://huggingface.co/nobody/finetuned-ast"


@pytest.mark.parametrize("case", ["no bias", "tanh"])
def test_an_ast_of_another_configuration_loads_with_its_weights(tmp_path, case):
    with np.load(GOLDEN / "transformers_ast.npz") as file:
        golden = {key.removeprefix(f"{case}/"): file[key] for key in file if key.startswith(f"{case}/")}
    config = json.loads(str(golden["config"]))
    sizes = {key: config[key] for key in ("num_mel_bins", "max_length")}
    folder = describe(tmp_path / "case", AST | config, EXTRACTOR | sizes)
    weights = {key.removeprefix("weights/"): array for key, array in golden.items() if key.startswith("weights/")}
    save_file(weights, folder / "model.safetensors")
    clip = zoo.load(folder)
    assert clip.labels == ("a", "b", "c")
    embedding = eqx.filter_jit(lambda clip, x: clip.model.network(x, clip.state)[0])(clip, jnp.asarray(golden["x"]))
    assert difference(embedding, golden["embedding"]) < 1e-5


def test_a_config_of_ast_says_it_all(tmp_path):
    entry = zoo.info(
        describe(
            tmp_path / "mine",
            AST | {"frequency_stride": 5, "time_stride": 6, "patch_size": 8, "qkv_bias": False, "layer_norm_eps": 1e-3},
        )
    )
    assert entry.frontend == {
        "type": "KaldiFbank",
        "sample_rate": 8000,
        "bins": 40,
        "frames": 100,
        "mean": -5.0,
        "scale": 6.0,
    }
    assert entry.network == {
        "type": "AST",
        "width": 24,
        "depth": 2,
        "heads": 3,
        "bins": 40,
        "frames": 100,
        "patch": 8,
        "stride": (6, 5),
        "mlp_width": 40,
        "qkv_bias": False,
        "eps": 1e-3,
        "activation": "gelu",
    }
    assert entry.model == {"type": "Classifier", "norm": 1e-3}
    assert (entry.name, entry.classes, entry.labels, entry.window) == ("mine", 3, ("a", "b", "c"), 1.0)


def test_what_a_config_of_ast_leaves_out_is_transformers_default(tmp_path):
    config = {"model_type": "audio-spectrogram-transformer", "id2label": {str(index): "x" for index in range(527)}}
    entry, published = zoo.info(describe(tmp_path / "bare", config, {})), zoo.info("ast_audioset")
    ours, theirs = (eqx.filter_eval_shape(zoo.create, each, key=jax.random.key(0)) for each in (entry, published))
    assert {name: leaf.shape for name, leaf in named_leaves(*ours).items()} == {
        name: leaf.shape for name, leaf in named_leaves(*theirs).items()
    }
    assert ours[0].frontend == theirs[0].frontend
    assert (entry.task, entry.window, entry.model) == ("multilabel", 10.24, published.model)


def test_transformers_does_not_write_its_two_default_labels(tmp_path):
    config = {name: value for name, value in AST.items() if name != "id2label"}
    entry = zoo.info(describe(tmp_path / "two", config))
    assert (entry.classes, entry.labels) == (2, ("LABEL_0", "LABEL_1"))


def test_labels_are_sorted_by_number(tmp_path):
    labels = {str(index): f"label {index}" for index in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert zoo.info(describe(tmp_path / "many", AST | {"id2label": labels})).labels == tuple(
        f"label {index}" for index in range(11)
    )


def test_features_that_are_not_normalised(tmp_path):
    entry = zoo.info(describe(tmp_path / "plain", AST, EXTRACTOR | {"do_normalize": False}))
    assert (entry.frontend["mean"], entry.frontend["scale"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    "kind, classes, task",
    [
        ("multi_label_classification", 3, "multilabel"),
        ("single_label_classification", 527, "multiclass"),
        (None, 3, "multiclass"),
        (None, 527, "multilabel"),
    ],
)
def test_the_task_is_the_problem_type(tmp_path, kind, classes, task):
    labels = {str(index): f"label {index}" for index in range(classes)}
    assert zoo.info(describe(tmp_path / "x", AST | {"problem_type": kind, "id2label": labels})).task == task


@pytest.mark.parametrize(
    "theirs, ours",
    [("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"), ("relu", "relu"), ("swish", "silu")],
)
def test_activations_have_other_names(tmp_path, theirs, ours):
    assert zoo.info(describe(tmp_path / "x", AST | {"hidden_act": theirs})).network["activation"] == ours


@pytest.mark.parametrize(
    "fields, fault",
    [
        ({"hidden_act": "mish"}, "x has the activation 'mish': the zoo has gelu"),
        ({"id2label": {"0": "a", "2": "c"}}, r"x needs labels 0, 1, \.\.\. in the id2label.*\['0', '2'\]"),
        ({"id2label": {"1": "a", "2": "c"}}, r"x needs labels 0, 1, \.\.\. in the id2label.*\['1', '2'\]"),
        ({"id2label": {"first": "a"}}, r"x needs labels 0, 1.*\['first'\]"),
        ({"id2label": {}}, r"x needs labels 0, 1.*\[\]"),
        ({"id2label": ["a", "b"]}, r"x has a field of the wrong type in its config\.json.*'a', 'b'"),
        ({"hidden_size": "wide"}, "wide"),
        ({"hidden_size": 25}, "25"),
        ({"max_length": 0}, "x has the max_length 0 in its config.json, and the max_length 100 in its preprocessor"),
        ({"num_mel_bins": 64}, "x has the num_mel_bins 64 in its config.json, and the num_mel_bins 40 in its preproc"),
        ({"layer_scale": True}, r"x has the field layer_scale \(True\), which the zoo does not know: take it out"),
        (
            {"problem_type": "regression"},
            "x has the problem_type 'regression': the zoo has 'single_label_classification'",
        ),
        ({"pruned_heads": {"0": [1]}}, r"x has the pruned_heads \{'0': \[1\]\}: the zoo has \{\}"),
        ({"patch_size": None}, "'patch': None"),
    ],
)
def test_an_ast_that_cannot_be_built_is_told_in_a_sentence(tmp_path, fields, fault):
    expect_sentence(add_weights(describe(tmp_path / "x", AST | fields)), fault)


@pytest.mark.parametrize(
    "fields, fault",
    [
        ({"sampling_rate": "16 kHz"}, "16 kHz"),
        ({"std": 0.0}, "scale"),
        ({"snip_edges": False}, r"x has the field snip_edges \(False\), which the zoo does not know"),
        ({"std": "one"}, "'scale': 'oneone'"),
        ({"max_length": None}, "max_length None in its preprocessor_config.json"),
        ({"mean": None}, r"x gives KaldiFbank an option that makes no sense to it.*'mean': None"),
    ],
)
def test_an_extractor_that_makes_no_sense_is_told_in_a_sentence(tmp_path, fields, fault):
    expect_sentence(add_weights(describe(tmp_path / "x", AST, EXTRACTOR | fields)), fault)


@pytest.mark.parametrize("text", ["", "{no json", "[1, 2]"])
def test_an_extractor_that_is_no_json_object_is_named(tmp_path, text):
    folder = add_weights(describe(tmp_path / "x", AST))
    (folder / "preprocessor_config.json").write_text(text)
    expect_sentence(folder, r"preprocessor_config\.json")


def test_an_ast_without_its_extractor_is_told(tmp_path):
    folder = add_weights(describe(tmp_path / "x", AST, None))
    expect_sentence(folder, r"x holds no preprocessor_config\.json", FileNotFoundError)


def test_an_ast_without_safetensors_is_told(tmp_path):
    expect_sentence(describe(tmp_path / "x", AST), r"x holds no model\.safetensors", FileNotFoundError)


def test_weights_that_do_not_fit_the_config_are_listed(tmp_path):
    with np.load(GOLDEN / "transformers_ast.npz") as file:
        config = json.loads(str(file["no bias/config"]))
        prefix = "no bias/weights/"
        weights = {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}
    del weights["classifier.layernorm.bias"]
    weights["classifier.dense.bias"] = np.zeros(5, np.float32)
    weights["audio_spectrogram_transformer.pooler.weight"] = np.zeros(5, np.float32)
    folder = describe(tmp_path / "x", AST | config)
    save_file(weights, folder / "model.safetensors")
    message = expect_sentence(folder, r"x/model\.safetensors does not fit the model")
    for part in (
        "norm.bias is missing",
        "head.bias is (5,) instead of (3,)",
        "audio_spectrogram_transformer.pooler.weight matches 0 rules",
    ):
        assert part in message
    assert message.count(";") == 2


def test_a_wave_longer_than_the_frames_is_cut_with_a_warning(tmp_path):
    clip = tiny_ast(tmp_path)
    max_samples = clip.model.frontend.max_samples
    wave = np.random.default_rng(0).uniform(-1, 1, max_samples + 1).astype(np.float32)
    whole = clip(wave[:max_samples])  # no warning
    with pytest.warns(UserWarning, match=r"hears the first .* s of a wave, got .* s: cut it first, as zoo\.windows"):
        np.testing.assert_array_equal(clip(wave), whole)


def tiny_ast(tmp_path):
    """An AST of 32 frames, saved and loaded."""
    frontend = {"type": "ast_fbank", "sample_rate": 16000, "bins": 16, "frames": 32}
    network = {"type": "AST", "width": 4, "depth": 1, "heads": 1, "bins": 16, "frames": 32}
    entry = zoo.Entry("tiny", frontend, network, classes=2, task="multiclass", window=0.3)
    zoo.save(tmp_path / "tiny", *zoo.create(entry, key=jax.random.key(0)), entry)
    return zoo.load(tmp_path / "tiny")
