"""Speech models through the zoo: folders of transformers', every door, saving, fine-tuning, and what is refused."""

import functools
import json
import shutil

import equinox as eqx
import jax
import numpy as np
import pytest
from arrays import error
from safetensors.numpy import load_file, save_file
from torch_files import torch_file

import zoo
from audax_eqx.models import Classifier
from audax_eqx.networks import WeightedLayers
from zoo import families, hear
from zoo._card import front_matter
from zoo._entry import from_json, to_json
from zoo._leaves import named_leaves
from zoo._limits import check_entry
from zoo._load import fit
from zoo._verify import verify

KEY = jax.random.key(0)


@functools.cache
def loaded(folder):
    return zoo.load(folder)


@pytest.fixture
def oracles(shared):
    return shared / "oracles"


def same(one, other):
    one, other = (named_leaves(clip.model, clip.state) for clip in (one, other))
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def edited(source, folder, change=None, **fields):
    """A copy of a folder, with fields of its config.json changed and what `change` makes of its arrays."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("golden.npz"))
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    if change is not None:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    return folder


# Doors ----------------------------------------------------------------------------------------------------------------


def test_every_door_of_an_x_vector(oracles):
    clip, golden = loaded(oracles / "wavlm_xvector"), np.load(oracles / "wavlm_xvector" / "golden.npz")
    wave = golden["wave_b"]
    layers = clip.layers(wave)
    for index, layer in enumerate(layers):
        assert error(layer, golden[f"hidden_b_{index}"]) < 1e-5
    assert error(clip.embed(wave), golden["xvector_b"]) < 1e-5 and error(clip(wave), golden["logits_b"]) < 1e-5
    assert len(clip.frames(wave)) == len(layers[0]) - 14  # of which a step of the last layer sees so many more
    times = clip.frame_times(len(layers[0]), layer=1)
    np.testing.assert_allclose(times[:2], [199.5 / 16000, 519.5 / 16000])
    np.testing.assert_allclose(clip.frame_times(3), times[7:10])
    for use in (clip.probabilities, clip.top, lambda wave: next(zoo.tag(clip, [(wave, 16000)]))):
        with pytest.raises(ValueError, match="wavlm_xvector has no classes and names no sounds"):
            use(wave)
    assert "embedding, 16000 Hz, windows of 10 s" in repr(clip)


def test_the_last_layer_is_the_frames(oracles):
    clip, golden = loaded(oracles / "data2vec"), np.load(oracles / "data2vec" / "golden.npz")
    wave = golden["wave_b"]
    np.testing.assert_array_equal(clip.layers(wave)[-1], clip.frames(wave))
    assert error(clip.frames(wave), golden["last_b"]) < 1e-5
    convolutional = zoo.load("resnet_fsdd")
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 8000).astype(np.float32)
    layers = convolutional.layers(wave)
    np.testing.assert_allclose(layers[-1], convolutional.frames(wave), rtol=1e-5, atol=1e-6)
    for index, layer in enumerate(layers):
        times = convolutional.frame_times(len(layer), layer=index)
        assert np.all(np.diff(times) > 0) and times[0] < 0.1 and 0.8 < times[-1] < 1.2


def test_recordings_and_hear_give_what_a_call_gives(oracles):
    clip = loaded(oracles / "hubert_base")
    waves = [np.random.default_rng(n).uniform(-0.5, 0.5, n).astype(np.float32) for n in (400, 8000, 20000)]
    for wave, result in zip(waves, zoo.embed(clip, [(wave, 16000) for wave in waves]), strict=True):
        assert error(result.values[0], clip.embed(wave)) < 1e-5
    model = hear.HearModel(clip, 50.0)
    assert error(hear.get_scene_embeddings(waves[1][None], model)[0], clip.embed(waves[1])) < 1e-5
    embeddings, times = hear.get_timestamp_embeddings(waves[1][None], model)
    assert embeddings.shape == (1, times.shape[1], 48) and np.isfinite(embeddings).all()


# Files ----------------------------------------------------------------------------------------------------------------


def old_spelling(arrays):
    """As files from before torch's parametrisations have it, of a model for pretraining."""
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for key, array in arrays.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[f"wav2vec2.{key}"] = array
    left_out = ("quantizer.codevectors", "project_q.weight", "project_hid.bias", "lm_head.weight")
    return renamed | dict.fromkeys(left_out, np.zeros(2, np.float32))


def with_decoder(arrays):
    parts = {f"model.{key}": array for key, array in arrays.items()}
    return parts | {"model.decoder.layers.9.fc1.weight": np.zeros(3, np.float32), "proj_out.weight": np.zeros(2)}


@pytest.mark.parametrize(
    "name, change, kind",
    [
        ("wav2vec2_base", old_spelling, "Wav2Vec2ForPreTraining"),
        ("wav2vec2_base", old_spelling, "Wav2Vec2ForCTC"),
        ("whisper_80", with_decoder, "WhisperForConditionalGeneration"),
    ],
)
def test_other_spellings_of_keys_are_the_same_model(oracles, tmp_path, name, change, kind):
    def bare(arrays):
        return change({key.removeprefix("model."): array for key, array in arrays.items()})

    clip = zoo.load(edited(oracles / name, tmp_path / "copy", bare, architectures=[kind]))
    assert same(clip, loaded(oracles / name)) and clip.entry.task == "embedding"


def test_a_torch_file_alone_is_the_same_model(oracles, tmp_path):
    folder = edited(oracles / "wavlm_xvector", tmp_path / "copy")
    (folder / "pytorch_model.bin").write_bytes(torch_file(load_file(folder / "model.safetensors")))
    (folder / "model.safetensors").unlink()
    assert same(zoo.load(folder), loaded(oracles / "wavlm_xvector"))


def test_what_was_loaded_is_saved_described_and_verified(oracles, tmp_path):
    clip = loaded(oracles / "wavlm_xvector")
    zoo.save(tmp_path / "mine", clip.model, clip.state, clip.entry)
    again = zoo.load(tmp_path / "mine", verify=True)
    assert same(again, clip) and again.entry.network == clip.entry.network
    assert verify(str(tmp_path / "mine")).checks == ["arrays", "golden output"]
    assert front_matter(again.entry)["pipeline_tag"] == "feature-extraction"
    assert "turns a recording into an embedding.\n" in (tmp_path / "mine" / "README.md").read_text()
    assert from_json(to_json(again.entry), "there") == again.entry


@pytest.mark.parametrize(
    "name, fields, fault",
    [
        ("wav2vec2_base", {"add_adapter": True}, "has the add_adapter True: the zoo has False"),
        ("wav2vec2_base", {"adapter_attn_dim": 16}, "has the adapter_attn_dim 16: the zoo has None"),
        ("hubert_base", {"conv_pos_batch_norm": True}, "has the conv_pos_batch_norm True"),
        ("whisper_80", {"scale_embedding": True}, "has the scale_embedding True"),
        ("data2vec", {"do_stable_layer_norm": True}, "has the do_stable_layer_norm True"),
        ("wavlm_base", {"feat_proj_layer_norm": False}, "has the feat_proj_layer_norm False"),
        ("wavlm_base", {"hidden_act": "mish"}, "has the activation 'mish': the zoo has gelu"),
        ("whisper_80", {"activation_function": "tanh"}, "has the activation 'tanh'"),
        ("wav2vec2_base", {"some_new_part": 3}, r"has the field some_new_part \(3\), which the zoo does not know"),
        ("hubert_base", {"architectures": ["HubertForEmotion"]}, "is a 'HubertForEmotion': the zoo reads HubertModel"),
        ("whisper_80", {"architectures": ["WhisperForCausalLM"]}, "is a 'WhisperForCausalLM': the zoo reads"),
        ("whisper_80", {"num_mel_bins": 128}, "num_mel_bins 128 in its config.json, and the feature_size 80"),
        ("whisper_80", {"max_source_positions": 1000}, "max_source_positions 1000"),
        ("wav2vec2_classifier", {"problem_type": "regression"}, "has the problem_type 'regression'"),
        ("wav2vec2_base", {"conv_dim": 3}, "has a field of the wrong type"),
        ("data2vec", {"num_conv_pos_embeddings": 1000}, "asks for a depth of"),
        ("wavlm_base", {"conv_dim": [8] * 300, "conv_kernel": [1] * 300, "conv_stride": [1] * 300}, "a depth of"),
    ],
)  # fmt: skip
def test_what_the_zoo_does_not_compute_is_told(oracles, tmp_path, name, fields, fault):
    with pytest.raises(ValueError, match=fault) as raised:
        zoo.info(edited(oracles / name, tmp_path / "copy", **fields))
    assert "\n" not in str(raised.value)


def test_defaults_are_transformers(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{}")
    for kind, published in (("wav2vec2", "wav2vec2_base"), ("data2vec-audio", "data2vec_audio_base")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        ours, known = (
            eqx.filter_eval_shape(zoo.create, each, key=KEY)[0] for each in (zoo.info(tmp_path), zoo.info(published))
        )
        assert eqx.tree_equal(ours.network, known.network) and eqx.tree_equal(ours.frontend, known.frontend)


def nested(depth, network):
    return {"type": "WeightedLayers", "network": nested(depth - 1, network)} if depth else network


@pytest.mark.parametrize(
    "frontend, network, fault",
    [
        ({}, {"steps": 1 << 20, "width": 1 << 10}, "a table of size"),
        ({"total_frames": 1 << 20}, {}, "a window of seconds"),
        ({}, {"nested": 9}, "networks in each other"),
    ],
)
def test_sizes_without_end_are_refused(frontend, network, fault):
    own = {"type": "Whisper", "width": 8, "depth": 1, "heads": 2, "steps": 30} | network
    own = nested(own.pop("nested", 1), own)
    frontend = {"type": "WhisperLogMel", "sample_rate": 16000, "total_frames": 60} | frontend
    entry = zoo.Entry("large", frontend, own, 0, "embedding", 0.5, model={"type": "Encoder"})
    with pytest.raises(ValueError, match=fault):
        check_entry(entry, "it")


def test_a_network_in_one_that_takes_none_is_told():
    network = {"type": "ResNet", "network": {"type": "whisper_tiny"}}
    frontend = {"type": "LogMel", "sample_rate": 16000}
    entry = zoo.Entry("odd", frontend, network, 0, "embedding", 0.5, model={"type": "Encoder"})
    with pytest.raises(ValueError, match="options that ResNet does not take"):
        zoo.create(entry, key=KEY)


# Published files ------------------------------------------------------------------------------------------------------


def pair(name, outputs, *inputs):
    return {f"{name}.weight": (outputs, *inputs), f"{name}.bias": (outputs,)}


def published(repo):
    """The shapes of the arrays of two published files, as their publishers wrote them."""
    if repo == "openai/whisper-tiny":
        top, width, mlp, depth = "model.encoder", 384, 1536, 4
        attention, norm, norms, linear = "self_attn", "self_attn_layer_norm", "layer_norm", ("fc1", "fc2")
        keys = pair(f"{top}.conv1", width, 80, 3) | pair(f"{top}.conv2", width, width, 3)
        keys |= {f"{top}.embed_positions.weight": (1500, width), "model.decoder.embed_tokens.weight": (51865, width)}
    else:
        top, width, mlp, depth = "wav2vec2.encoder", 768, 3072, 12
        attention, norm, norms, linear = "attention", "layer_norm", "layer_norm", ("intermediate_dense", "output_dense")
        linear = tuple(f"feed_forward.{each}" for each in linear)
        convolutions = "wav2vec2.feature_extractor.conv_layers"
        taps = enumerate((10, 3, 3, 3, 3, 2, 2))
        keys = {f"{convolutions}.{layer}.conv.weight": (512, 512 if layer else 1, kernel) for layer, kernel in taps}
        keys |= pair(f"{convolutions}.0.layer_norm", 512) | pair("wav2vec2.feature_projection.layer_norm", 512)
        keys |= pair("wav2vec2.feature_projection.projection", width, 512)
        position = f"{top}.pos_conv_embed.conv"
        keys |= {
            f"{position}.bias": (width,),
            f"{position}.weight_g": (1, 1, 128),
            f"{position}.weight_v": (768, 48, 128),
        }
        keys |= {"wav2vec2.masked_spec_embed": (width,), "quantizer.codevectors": (1, 640, 128)}
    for index in range(depth):
        block = f"{top}.layers.{index}"
        for part in "qkv":
            keys |= pair(f"{block}.{attention}.{part}_proj", width, width)
        keys |= pair(f"{block}.{attention}.out_proj", width, width)
        keys |= pair(f"{block}.{norm}", width) | pair(f"{block}.final_layer_norm", width)
        keys |= pair(f"{block}.{linear[0]}", mlp, width) | pair(f"{block}.{linear[1]}", width, mlp)
        if attention == "self_attn":
            del keys[f"{block}.self_attn.k_proj.bias"]
    return keys | pair(f"{top}.{norms}", width)


@pytest.mark.parametrize("name, count", [("whisper_tiny", 67 + 1), ("wav2vec2_base", 211 + 1)])
def test_a_published_file_fits(name, count):
    entry = zoo.info(name)
    shapes = published(entry.checkpoint.repo)
    assert len(shapes) == count
    fit(entry, shapes, entry.checkpoint.repo, families.rules(entry.checkpoint.table))


# Fine-tuning ----------------------------------------------------------------------------------------------------------


def test_a_head_over_a_sum_of_layers(oracles, tmp_path):
    clip = loaded(oracles / "wav2vec2_base")
    thawed = clip.thaw(labels=("yes", "no"), layers="weighted", name="words", key=KEY)
    model, _ = thawed
    assert isinstance(model, Classifier) and isinstance(model.network, WeightedLayers)
    assert thawed.entry.network == {"type": "WeightedLayers", "network": clip.entry.network}
    zoo.save(tmp_path / "words", *thawed, thawed.entry)
    again = zoo.load(tmp_path / "words", verify=True)
    wave = np.load(oracles / "wav2vec2_base" / "golden.npz")["wave_b"]
    mean = np.mean([np.asarray(layer) for layer in clip.layers(wave)], axis=0)  # as weights begin
    assert error(again.frames(wave), mean) < 1e-5 and error(again.embed(wave), mean.mean(axis=0)) < 1e-5
    assert again.thaw(classes=3, layers="weighted", key=KEY).entry.network == again.entry.network


def test_a_sum_of_what_cannot_be_summed_is_told(oracles):
    with pytest.raises(ValueError, match=r"WeightedLayers adds up layers of one size, .* have several, .*layers=.last"):
        zoo.load("resnet_fsdd").thaw(classes=2, layers="weighted", key=KEY)
    with pytest.raises(ValueError, match=r"adds up 1 layers, and XVector has 4: give the sum layers=4, or a new head"):
        loaded(oracles / "wavlm_xvector").thaw(classes=2, layers="weighted", key=KEY)
    for options in ({"layers": "weighted"}, {"layers": "all", "classes": 2}):
        with pytest.raises(ValueError, match="layers is the input of a new head, 'last' or 'weighted', got"):
            loaded(oracles / "wav2vec2_base").thaw(**options, key=KEY)


def test_a_head_that_is_kept_keeps_its_projection(oracles):
    clip = loaded(oracles / "hubert_classifier")
    model, _ = clip.thaw(task="multilabel", key=KEY)
    assert model.task == "multilabel"
    for part in ("projection", "head"):
        assert eqx.tree_equal(getattr(model, part), getattr(clip.model, part))
    assert clip.labels == tuple(f"label {index}" for index in range(5))
    fresh, _ = clip.thaw(classes=3, key=KEY)
    assert fresh.head.weight.shape == (3, 24) and not eqx.tree_equal(fresh.projection, clip.model.projection)
