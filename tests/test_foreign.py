"""Models in transformers' and timm's own layout: from folders, and from the Hub's cache."""

import functools
import importlib.util
import json
import pathlib

import equinox as eqx
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import zoo
from zoo._leaves import named_leaves

GOLDEN = pathlib.Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("checkpoints", GOLDEN / "checkpoints.py")
checkpoints = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(checkpoints)

AST = {
    "architectures": ["ASTForAudioClassification"],
    "model_type": "audio-spectrogram-transformer",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_mel_bins": 40,
    "max_length": 100,
    "id2label": {"0": "a", "1": "b", "2": "c"},
}
EXTRACTOR = {
    "feature_extractor_type": "ASTFeatureExtractor",
    "num_mel_bins": 40,
    "max_length": 100,
    "mean": -5.0,
    "std": 3.0,
    "sampling_rate": 8000,
}


def difference(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def described(folder, config, extractor=EXTRACTOR):
    """A folder with these two files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if extractor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """An empty cache in place of the Hub's."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("hub")
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home))
        yield home


def snapshot(hub, repo):
    """The folder of a repo's files in the cache; whether it is new."""
    folder, commit = hub / f"models--{repo.replace('/', '--')}", "5" * 40
    made = folder / "snapshots" / commit
    new = not made.is_dir()
    if new:
        made.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
    return made, new


# AST ------------------------------------------------------------------------------------------------------------------


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
    folder = snapshot(hub, repo)[0]
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
    folder = described(tmp_path / "case", AST | config, EXTRACTOR | sizes)
    weights = {key.removeprefix("weights/"): array for key, array in golden.items() if key.startswith("weights/")}
    save_file(weights, folder / "model.safetensors")
    clip = zoo.load(folder)
    assert clip.labels == ("a", "b", "c")
    embedding = eqx.filter_jit(lambda clip, x: clip.model.network(x, clip.state)[0])(clip, jnp.asarray(golden["x"]))
    assert difference(embedding, golden["embedding"]) < 1e-5


def test_a_config_of_ast_says_it_all(tmp_path):
    entry = zoo.info(
        described(
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
    bare = {"model_type": "audio-spectrogram-transformer", "id2label": {str(index): "x" for index in range(527)}}
    entry, published = zoo.info(described(tmp_path / "bare", bare, {})), zoo.info("ast_audioset")
    clip_shapes, known = (eqx.filter_eval_shape(zoo.create, each, key=jax.random.key(0)) for each in (entry, published))
    assert {name: leaf.shape for name, leaf in named_leaves(*clip_shapes).items()} == {
        name: leaf.shape for name, leaf in named_leaves(*known).items()
    }
    assert clip_shapes[0].frontend == known[0].frontend
    assert (entry.task, entry.window, entry.model) == ("multilabel", 10.24, published.model)


def test_transformers_does_not_write_its_two_default_labels(tmp_path):
    config = {name: value for name, value in AST.items() if name != "id2label"}
    entry = zoo.info(described(tmp_path / "two", config))
    assert (entry.classes, entry.labels) == (2, ("LABEL_0", "LABEL_1"))


def test_labels_are_sorted_by_number(tmp_path):
    labels = {str(index): f"label {index}" for index in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert zoo.info(described(tmp_path / "many", AST | {"id2label": labels})).labels == tuple(
        f"label {index}" for index in range(11)
    )


def test_features_that_are_not_normalised(tmp_path):
    entry = zoo.info(described(tmp_path / "plain", AST, EXTRACTOR | {"do_normalize": False}))
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
    assert zoo.info(described(tmp_path / "x", AST | {"problem_type": kind, "id2label": labels})).task == task


@pytest.mark.parametrize(
    "theirs, ours",
    [("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"), ("relu", "relu"), ("swish", "silu")],
)
def test_activations_have_other_names(tmp_path, theirs, ours):
    assert zoo.info(described(tmp_path / "x", AST | {"hidden_act": theirs})).network["activation"] == ours


def sentence(folder, fault, kind=ValueError):
    with pytest.raises(kind, match=fault) as raised:
        zoo.load(folder)
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".")
    return message


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
    sentence(weighted(described(tmp_path / "x", AST | fields)), fault)


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
    sentence(weighted(described(tmp_path / "x", AST, EXTRACTOR | fields)), fault)


@pytest.mark.parametrize("text", ["", "{no json", "[1, 2]"])
def test_an_extractor_that_is_no_json_object_is_named(tmp_path, text):
    folder = weighted(described(tmp_path / "x", AST))
    (folder / "preprocessor_config.json").write_text(text)
    sentence(folder, r"preprocessor_config\.json")


def test_an_ast_without_its_extractor_is_told(tmp_path):
    folder = weighted(described(tmp_path / "x", AST, None))
    sentence(folder, r"x holds no preprocessor_config\.json", FileNotFoundError)


def test_an_ast_without_safetensors_is_told(tmp_path):
    sentence(described(tmp_path / "x", AST), r"x holds no model\.safetensors", FileNotFoundError)


def weighted(folder):
    """With some weights, so that these are not what is missed."""
    save_file({"classifier.dense.bias": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def test_weights_that_do_not_fit_the_config_are_listed(tmp_path):
    with np.load(GOLDEN / "transformers_ast.npz") as file:
        config = json.loads(str(file["no bias/config"]))
        prefix = "no bias/weights/"
        weights = {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}
    del weights["classifier.layernorm.bias"]
    weights["classifier.dense.bias"] = np.zeros(5, np.float32)
    weights["audio_spectrogram_transformer.pooler.weight"] = np.zeros(5, np.float32)
    folder = described(tmp_path / "x", AST | config)
    save_file(weights, folder / "model.safetensors")
    message = sentence(folder, r"x/model\.safetensors does not fit the model")
    for part in (
        "norm.bias is missing",
        "head.bias is (5,) instead of (3,)",
        "audio_spectrogram_transformer.pooler.weight matches 0 rules",
    ):
        assert part in message
    assert message.count(";") == 2


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
    sentence(weighted(described(tmp_path / "x", config)), fault)


# CED ------------------------------------------------------------------------------------------------------------------

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
    entry = zoo.info(described(tmp_path / "mine", CED, CED_EXTRACTOR))
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
    framed = zoo.info(described(tmp_path / "mine", CED, CED_EXTRACTOR | {"center": False})).frontend
    assert framed["framing"] == "valid"


def test_what_a_config_of_ced_leaves_out_is_its_publishers_default(tmp_path):
    bare = zoo.info(described(tmp_path / "bare", {"model_type": "ced"}, {}))
    for size in ("tiny", "base"):
        entry = zoo.info(described(tmp_path / size, {"model_type": "ced", "name": f"ced-{size}"}, {}))
        published = zoo.info(f"ced_{size}_audioset")
        ours, known = (eqx.filter_eval_shape(zoo.create, each, key=jax.random.key(0)) for each in (entry, published))
        assert {name: leaf.shape for name, leaf in named_leaves(*ours).items()} == {
            name: leaf.shape for name, leaf in named_leaves(*known).items()
        }
        assert (entry.classes, entry.task, entry.labels) == (527, "multilabel", ())
    assert bare.network == entry.network


@pytest.mark.parametrize("labels", [None, {str(index): "AudioSet's" for index in range(527)}])
def test_a_ced_has_its_outputs_and_no_labels_of_another_number(tmp_path, labels):
    entry = zoo.info(described(tmp_path / "x", CED | {"outputdim": 50, "id2label": labels}, CED_EXTRACTOR))
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
    assert zoo.info(described(tmp_path / "x", config, CED_EXTRACTOR)).task == task


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
    sentence(weighted(described(tmp_path / "x", CED | fields, CED_EXTRACTOR)), fault)


@pytest.mark.parametrize("rate, fault", [(0, "x needs a frontend with a sample_rate in Hz.*got 0"), ("16 kHz", "type")])
def test_a_ced_needs_a_sample_rate(tmp_path, rate, fault):
    folder = weighted(described(tmp_path / "x", CED, CED_EXTRACTOR | {"sampling_rate": rate}))
    sentence(folder, fault)


def test_a_ced_without_its_extractor_is_told(tmp_path):
    folder = weighted(described(tmp_path / "x", CED, None))
    sentence(folder, r"x holds no preprocessor_config\.json", FileNotFoundError)


# timm -----------------------------------------------------------------------------------------------------------------


@functools.cache
def seeded(name):
    shapes = json.loads((GOLDEN / "checkpoints.json").read_text())[name]
    return {key: checkpoints.seeded(key, tuple(shape)) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def timm(hub):
    """A function that loads a published ImageNet model from the cache, with seeded weights."""

    @functools.cache
    def load(name):
        save_file(seeded(name), snapshot(hub, name)[0] / "model.safetensors")
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
            logits, moved = run(waves, state)
            return -jnp.mean(jax.nn.log_softmax(logits)[:, 1]), moved

        (value, moved), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        return value, moved, gradients

    value, moved, gradients = step(parameters, state)
    assert np.isfinite(value) and 0 < float(value) < 20
    slopes = {name: np.asarray(leaf) for name, leaf in named_leaves(gradients, moved).items()}
    assert all(np.isfinite(leaf).all() for leaf in slopes.values())
    assert all(np.abs(slopes[name]).max() > 0 for name in ("network.stem.weight", "head.weight", "head.bias"))
    before = named_leaves(model, state)
    assert not np.array_equal(
        slopes["network.stages.3.1.norm2.running_var"], before["network.stages.3.1.norm2.running_var"]
    )


def test_an_image_repo_describes_itself(hub):
    arrays = seeded("timm/resnet18.a1_in1k")
    arrays = arrays | {"fc.weight": arrays["fc.weight"][:10], "fc.bias": arrays["fc.bias"][:10]}
    folder = snapshot(hub, "timm/other")[0]
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
    folder = described(tmp_path / "x", {"architecture": "resnet18", "num_classes": 10}, None)
    save_file({"fc.bias": np.zeros(11, np.float32)}, folder / "model.safetensors")
    message = sentence(folder, r"head\.bias is \(11,\) instead of \(10,\)")
    assert "network.stem.weight is missing" in message


def test_a_wave_longer_than_the_frames_is_cut_with_a_warning(tmp_path):
    clip = tiny_ast(tmp_path)
    most = clip.model.frontend.max_samples
    wave = np.random.default_rng(0).uniform(-1, 1, most + 1).astype(np.float32)
    whole = clip(wave[:most])  # no warning
    with pytest.warns(UserWarning, match=r"hears the first .* s of a wave, got .* s: cut it first, as zoo\.windows"):
        np.testing.assert_array_equal(clip(wave), whole)


def tiny_ast(tmp_path):
    """An AST of 32 frames, saved and loaded."""
    frontend = {"type": "ast_fbank", "sample_rate": 16000, "bins": 16, "frames": 32}
    network = {"type": "AST", "width": 4, "depth": 1, "heads": 1, "bins": 16, "frames": 32}
    entry = zoo.Entry("tiny", frontend, network, classes=2, task="multiclass", window=0.3)
    zoo.save(tmp_path / "tiny", *zoo.create(entry, key=jax.random.key(0)), entry)
    return zoo.load(tmp_path / "tiny")
