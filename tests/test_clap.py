"""CLAP: its towers and frontend against oracles and closed forms, words, and what the zoo makes of them."""

import json
import pathlib
import pickle
import re
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest
import tokenizers
from golden.seeded import fill
from safetensors.numpy import load_file, save_file

import zoo
from audax_eqx import networks
from audax_eqx.frontends import CLAPLogMel, LogMel
from audax_eqx.layers import SwinBlock
from audax_eqx.models import CLAP, Classifier
from audax_eqx.networks import HTSAT, RoBERTa
from audax_eqx.networks.htsat import _stretch
from zoo import families
from zoo.__main__ import main
from zoo._limits import check_entry

PARAMETERS = {"htsat_tiny": 27_534_488, "htsat_base": 67_824_408}  # transformers', less the projection
RATE, SECONDS = 8000, 0.4
FRONTEND = {
    "type": "CLAPLogMel",
    "sample_rate": RATE,
    "bins": 16,
    "n_fft": 256,
    "hop_length": 80,
    "f_max": 4000.0,
    "seconds": SECONDS,
}
NETWORK = {
    "type": "HTSAT",
    "depths": (1, 2),
    "heads": (1, 2),
    "embedding": 4,
    "bins": 16,
    "frames": 41,
    "image": 32,
    "patch": 2,
    "window": 4,
    "projection": 6,
}
TEXT = {"type": "RoBERTa", "hidden": 8, "depth": 1, "heads": 2, "words": 24, "positions": 40, "projection": 6}
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "dog", "rain", "siren", "this", "is", "sound", "of", "."]
ENTRY = zoo.Entry(
    name="small",
    frontend=FRONTEND,
    network=NETWORK,
    model={"type": "CLAP", "text": TEXT},
    classes=0,
    task="contrastive",
    window=SECONDS,
)
FILLS = ("repeatpad", "repeat", "pad")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def tokenizer():
    """One word, one token, as RoBERTa's tokenizer puts them between <s> and </s>."""
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.enable_padding(pad_id=1, pad_token="<pad>")
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLAP as `zoo.save` writes it, with a tokenizer beside it."""
    path = tmp_path_factory.mktemp("clap") / "small"
    model, state = zoo.create(ENTRY, key=jax.random.key(0))
    model = jax.tree.map(lambda leaf: 20 * leaf if eqx.is_array(leaf) and leaf.ndim > 1 else leaf, model)
    zoo.save(path, model, state, ENTRY)
    (path / "tokenizer.json").write_text(tokenizer().to_str())
    return path


@pytest.fixture(scope="module")
def clip(folder):
    return zoo.load(folder)


# The oracles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unfused", "fused"])
def test_clap_is_transformers(shared, kind):
    folder = shared / "oracles" / f"clap_{kind}"
    clip = zoo.load(folder)
    scales = (clip.model.frontend.mel_scale, clip.model.frontend.norm)
    assert scales == (("slaney", "slaney") if kind == "unfused" else ("htk", None))
    with np.load(folder / "golden.npz") as golden:
        text = clip.embed_text(golden["texts"])
        assert error(text, golden["text"]) < 1e-5
        features = jax.jit(clip.model.frontend)
        words = clip.zero_shot(list(golden["texts"]), prompt="{}")
        for length in ("short", "full"):
            wave = golden[f"wave_{length}"].astype(np.float32)
            assert error(features(wave), golden[f"input_{length}"][0]) < 2e-4  # its bins go down to the floor, -100 dB
            audio = golden[f"audio_{length}"]
            assert error(clip.embed(wave), audio) < 1e-5
            logits = golden["logit_scale"] * golden["text"] @ audio
            assert error(words.probabilities(wave), np.exp(logits) / np.exp(logits).sum()) < 1e-5


def test_a_fused_models_fusion_is_left_out_and_nothing_else(shared):
    arrays = load_file(shared / "oracles" / "clap_fused" / "model.safetensors")
    plain = load_file(shared / "oracles" / "clap_unfused" / "model.safetensors")
    assert {key for key in arrays if "fusion_model" in key or "mel_conv2d" in key} == arrays.keys() - plain.keys()
    rules = families.rules("clap")
    matching = {key: [rule for rule in rules if re.fullmatch(rule.pattern, key)] for key in arrays}
    assert all(len(each) == 1 for each in matching.values())
    assert {key for key, (rule,) in matching.items() if rule.replacement is None} - (arrays.keys() - plain.keys()) == {
        key for key in plain if key.endswith(("_index", "_ids", "num_batches_tracked"))
    }


# The frontend ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("samples", [1, 700, 2000, 3199, 3200])
def test_a_short_clip_is_filled_up(fill, samples):
    options = {name: value for name, value in FRONTEND.items() if name not in ("type", "seconds")}
    frontend = CLAPLogMel(**options, seconds=SECONDS, fill=fill)
    wave, size = noise(samples), 3200
    filled = np.tile(wave, {"repeatpad": size // samples, "repeat": size, "pad": 1}[fill])[:size]
    expected = LogMel(**options, mel_scale="slaney", norm="slaney", f_min=50.0)(
        jnp.asarray(np.pad(filled, (0, size - len(filled))))
    )
    assert expected.shape == (41, 16)
    np.testing.assert_array_equal(frontend(jnp.asarray(wave)), expected)
    loud = np.concatenate([wave, 9 * noise(4000, seed=1)])
    np.testing.assert_array_equal(frontend(jnp.asarray(loud), length=jnp.asarray(samples)), expected)


def test_a_longer_clip_is_heard_from_its_beginning_and_none_raises():
    frontend = CLAPLogMel()
    assert (frontend.total_frames, frontend.max_samples, frontend.frames(480), frontend.frames(481)) == (
        1001,
        480000,
        1,
        2,
    )
    small = CLAPLogMel(**{name: value for name, value in FRONTEND.items() if name != "type"})
    wave = noise(5000)
    np.testing.assert_array_equal(small(jnp.asarray(wave)), small(jnp.asarray(wave[:3200])))
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        small(jnp.zeros(0))
    with pytest.raises(ValueError, match="give more seconds"):
        CLAPLogMel(seconds=0.01)


# The audio tower ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    network, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=jax.random.key(0))
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(network) if hasattr(leaf, "shape") and leaf.shape)
        == (PARAMETERS[name])
    )


def test_frames_are_stretched_as_torch_does():
    # torch.nn.functional.interpolate(x, (8, 1), mode="bicubic", align_corners=True)
    golden = [0.0, 0.26530659, 1.37609434, 2.70553947, 5.73469543, 8.59183598, 8.68513012, 7.0]
    x = jnp.asarray([[0.0], [1.0], [4.0], [9.0], [7.0]])
    np.testing.assert_allclose(_stretch(x, 8)[:, 0], golden, atol=2e-6)
    np.testing.assert_allclose(_stretch(jnp.ones((41, 2)), 64), np.ones((64, 2)), atol=1e-6)
    with pytest.raises(ValueError, match="at most 4 frames, got 5"):
        _stretch(x, 4)


def test_positions_say_which_frame_a_step_is_made_of():
    network, state = fill(
        lambda key: HTSAT((1, 1), (1, 1), 4, bins=16, frames=41, image=32, patch=2, window=4, key=key)
    )
    network = eqx.nn.inference_mode(network)
    run = eqx.filter_jit(eqx.filter_vmap(lambda network, x: network.layers(x, state)[0][0], in_axes=(None, 0)))
    x = noise(41, 16)
    maps = run(network, x[None] + np.eye(41, 42, dtype=np.float32).T[:, :, None])
    moved = np.abs(np.asarray(maps)[:-1] - np.asarray(maps)[-1]).sum(axis=(2, 3))  # frame raised x step
    positions = network.positions(32, 0)
    assert moved.shape == (41, 32)
    assert np.abs(positions[moved.argmax(axis=1)] - np.arange(41)).max() <= 1.0
    assert [len(network.positions(each, layer)) for layer, each in ((0, 32), (1, 16), (2, 16), (-1, 16))] == [
        32,
        16,
        16,
        16,
    ]
    np.testing.assert_allclose(np.diff(network.positions(16)), 4 * 40 / 63)
    np.testing.assert_allclose(network.positions(16).mean(), 20.0)  # evenly around the middle
    np.testing.assert_array_equal(network.positions(16, 1), network.positions(16, 2))


def test_shifted_windows_do_not_reach_around_the_image():
    block, _ = fill(
        lambda key: SwinBlock(
            4, 2, window=4, shift=2, mlp_width=4, qkv_bias=True, eps=1e-5, activation="gelu", drop_path=0.0, key=key
        )
    )
    x = jnp.asarray(noise(8, 8, 4))
    run = eqx.filter_jit(block)
    moved = np.abs(run(x.at[7, 7, 0].add(1.0)) - run(x)).max(axis=2) > 0
    expected = np.zeros((8, 8), bool)
    expected[6:, 6:] = True  # what is left of the last window, of which the rest lies at the other ends
    np.testing.assert_array_equal(moved, expected)
    moved = np.abs(run(x.at[3, 3, 0].add(1.0)) - run(x)).max(axis=2) > 0
    np.testing.assert_array_equal(np.argwhere(moved).min(axis=0), [2, 2])
    np.testing.assert_array_equal(np.argwhere(moved).max(axis=0), [5, 5])


@pytest.mark.parametrize(
    "options", [{"window": 5}, {"image": 40}, {"bins": 24}, {"depths": (1,)}, {"patch": 0}, {"bins": 2}]
)
def test_sizes_that_do_not_go_together_are_told(options):
    options = {name: value for name, value in NETWORK.items() if name != "type"} | options
    with pytest.raises(ValueError, match="HTSAT"):
        eqx.filter_eval_shape(lambda key: eqx.nn.make_with_state(HTSAT)(**options, key=key), jax.random.key(0))


# The text tower -------------------------------------------------------------------------------------------------------


def test_padding_has_no_part_in_a_text():
    text, _ = fill(lambda key: RoBERTa(**{name: value for name, value in TEXT.items() if name != "type"}, key=key))
    run = eqx.filter_jit(lambda text, tokens, length: text(tokens, length=length))
    tokens = jnp.asarray([0, 5, 6, 4, 2], jnp.int32)
    alone = run(text, tokens, None)
    for behind in (1, 7):
        padded = jnp.concatenate([tokens, jnp.full(6, behind, jnp.int32)])
        np.testing.assert_allclose(run(text, padded, jnp.asarray(5)), alone, atol=1e-6)
    assert error(run(text, tokens[jnp.asarray([0, 6, 5, 4, 2]) % 5], None), alone) > 1e-3
    assert text.most_tokens == 38 and text.width == 6
    with pytest.raises(ValueError, match="1 to 38 tokens, got 39"):
        text(jnp.zeros(39, jnp.int32))
    with pytest.raises(ValueError, match="positions for 2 tokens"):
        RoBERTa(8, 1, 2, positions=3, key=jax.random.key(0))


def test_towers_of_several_widths_are_told():
    with pytest.raises(ValueError, match="have 6 and 5 numbers"):
        zoo.create(ENTRY.replace(model={"type": "CLAP", "text": TEXT | {"projection": 5}}), key=jax.random.key(0))


# Words ----------------------------------------------------------------------------------------------------------------


def test_texts_of_any_length_have_few_programs(clip, programs):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS[4:], count)) for count in rng.integers(1, 36, 40)]
    before = programs()
    together = clip.embed_text(texts)
    compiled = programs() - before
    assert together.shape == (40, 6) and compiled <= 3  # 16, 32 and 38 tokens, 8 texts each
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([clip.embed_text(text) for text in texts[:6]])
    np.testing.assert_allclose(alone, together[:6], atol=1e-6)
    assert programs() - before <= compiled + 3 and error(together[1], together[0]) > 1e-3
    np.testing.assert_array_equal(clip.embed_text(np.array(texts)), together)
    long = " ".join(["dog"] * 100)
    np.testing.assert_allclose(clip.embed_text(long)[0], clip.embed_text(" ".join(["dog"] * 36))[0], atol=1e-6)
    np.testing.assert_array_equal(clip.embed_text(iter(texts[:2])), clip.embed_text(tuple(texts[:2])))


@pytest.mark.parametrize(
    ("texts", "kind", "message"),
    [
        ([], ValueError, "got no text"),
        ([""], ValueError, "an empty one"),
        (["dog", "  "], ValueError, "an empty one"),
        ([1], TypeError, "got a list with 1"),
        (b"dog", TypeError, "got b'dog'"),
        (3, TypeError, "got 3"),
        (["\ud800"], ValueError, "cannot make tokens"),
    ],
)
def test_what_are_no_texts_is_told(clip, texts, kind, message):
    with pytest.raises(kind, match=message):
        clip.embed_text(texts)


def test_other_labels_take_the_same_programs(clip, programs):
    wave = noise(2000)
    clip.zero_shot(["dog", "rain"]).top(wave)
    list(zoo.tag(clip.zero_shot(["dog", "rain"]), [(wave, clip.sample_rate)]))
    before = programs()
    words = clip.zero_shot(["siren", "cat"], prompt="{}")
    words.top(wave)
    list(zoo.tag(words, [(wave, clip.sample_rate)]))
    assert programs() == before


def test_without_labels_the_remedy_is_zero_shot(clip):
    for call in (clip.top, lambda wave: zoo.tag(clip, [(wave, clip.sample_rate)])):
        with pytest.raises(ValueError, match=r"has no classes and names no sounds: (clip\.)?zero_shot\(labels\)"):
            call(noise(2000))


def test_zero_shot_is_the_softmax_of_scaled_cosines(clip):
    labels, wave = ["dog", "rain", "siren"], noise(2000)
    words = clip.zero_shot(labels)
    assert (words.labels, words.entry.task, words.entry.name) == (tuple(labels), "multiclass", "small_zero_shot")
    texts = clip.embed_text([f"This is a sound of {label}." for label in labels])
    logits = np.exp(clip.model.audio_logit_scale) * np.asarray(texts) @ np.asarray(clip.embed(wave))
    np.testing.assert_allclose(words(wave), logits, rtol=1e-4, atol=1e-4)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(words.probabilities(wave), expected, atol=1e-5)
    assert {label for label, _ in words.top(wave)} == set(labels)
    other = clip.zero_shot(labels, prompt="{}")
    assert error(other.model.head.weight, words.model.head.weight) > 1e-3
    np.testing.assert_allclose(other.model.head.weight, clip.embed_text(labels), atol=1e-6)
    (result,) = zoo.tag(words, [(wave, RATE)])
    np.testing.assert_allclose(result.values[0], words.probabilities(wave), atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ("dog", {}, "labels are the names of all classes"),
        ([], {}, "labels are the names"),
        (["dog", "dog"], {}, "each class once"),
        (["dog", ""], {}, "labels are the names"),
        (["dog"], {"prompt": "a sound"}, "got 'a sound'"),
        (["dog"], {"prompt": "{} {}"}, "got '{} {}'"),
    ],
)
def test_labels_and_prompts_that_make_no_sense_are_told(clip, labels, options, message):
    with pytest.raises(ValueError, match=re.escape(message) if "{" in message else message):
        clip.zero_shot(labels, **options)


def test_models_without_words_say_so(tmp_path, folder):
    deaf = zoo.load("resnet_esc10")
    for call in (deaf.embed_text, deaf.zero_shot):
        with pytest.raises(ValueError, match=r"resnet_esc10 has no words.*clap_unfused"):
            call(["dog"])
    shutil.copytree(folder, tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    mute = zoo.load(tmp_path / "mute", verify=True)
    assert mute.embed(noise(2000)).shape == (6,)
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        mute.embed_text("dog")
    other_words = tokenizer().to_str().replace('"dog":5', '"dog":99')
    for content, message in (("{}", "is not a tokenizer"), (other_words, "24 words")):
        (tmp_path / "mute" / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            zoo.load(tmp_path / "mute").embed_text("dog")


# The zoo --------------------------------------------------------------------------------------------------------------


def test_a_model_is_saved_with_its_tokenizer(clip, tmp_path):
    zoo.save(tmp_path / "again", clip.model, clip.state, clip.entry)
    again = zoo.load(tmp_path / "again", verify=True)
    np.testing.assert_array_equal(again.embed_text("a dog"), clip.embed_text("a dog"))
    plan = zoo.publish("user/clap", again.model, again.state, again.entry, dry_run=True)
    assert "tokenizer.json" in plan and "texts into embeddings" in (tmp_path / "again" / "README.md").read_text()
    words = clip.zero_shot(["dog", "rain"])
    zoo.save(tmp_path / "words", words.model, words.state, words.entry)
    assert "tokenizer.json" not in {path.name for path in (tmp_path / "words").iterdir()}
    back = zoo.load(tmp_path / "words", verify=True)
    assert back.labels == ("dog", "rain") and back.entry == words.entry
    np.testing.assert_array_equal(back(noise(2000)), words(noise(2000)))


def test_a_recordings_embedding_has_length_1_and_is_the_same_at_every_call(clip):
    long, short = noise(8000), noise(1000, seed=1)  # 2.5 windows
    sounds = [(long, RATE), (short, RATE), (noise(3200, seed=2), RATE)]
    first, brief, _ = (result.values[0] for result in zoo.embed(clip, sounds))
    for result in (*zoo.embed(clip, [sounds[0]]), *zoo.embed(clip, sounds[::-1])):
        assert abs(np.linalg.norm(result.values[0]) - 1) < 1e-6
        if result.duration == 1.0:
            np.testing.assert_allclose(result.values[0], first, atol=1e-6)
    np.testing.assert_array_equal(first, next(iter(zoo.embed(clip, sounds))).values[0])
    np.testing.assert_allclose(brief, clip.embed(short), atol=1e-6)  # by repetition, as alone
    (windows,) = zoo.embed(clip, [sounds[0]], each="window")
    np.testing.assert_allclose(windows.values[2], clip.embed(long[6400:]), atol=1e-6)
    mean = np.array([3200, 3200, 1600]) @ windows.values
    np.testing.assert_allclose(first, mean / np.linalg.norm(mean), atol=1e-6)
    (frames,) = zoo.embed(clip, [sounds[0]], each="frame")
    assert frames.values.shape[1] == 8 and abs(frames.end[-1] - 1.0) < 0.03
    with pytest.warns(UserWarning, match="hears the first 0.40 s"):
        np.testing.assert_array_equal(clip.embed(long), clip.embed(long[:3200]))


def test_hear_and_another_process_take_it(clip, folder):
    model = zoo.hear.load_model(folder, hop=100.0)
    assert (model.scene_embedding_size, model.timestamp_embedding_size) == (6, 8)
    sounds = noise(2, 4000)
    assert zoo.hear.get_scene_embeddings(sounds, model).shape == (2, 6)
    embeddings, milliseconds = zoo.hear.get_timestamp_embeddings(sounds, model)
    assert embeddings.shape == (*milliseconds.shape, 8)
    copy = pickle.loads(pickle.dumps(clip))
    assert copy.model.tokenizer == clip.model.tokenizer
    np.testing.assert_array_equal(copy.embed_text("dog"), clip.embed_text("dog"))


def test_it_is_thawed_as_it_is_or_as_a_classifier(clip):
    model, _ = clip.thaw(key=jax.random.key(0))
    assert isinstance(model, CLAP) and model.tokenizer == clip.model.tokenizer
    model, state = clip.thaw(labels=("dog", "rain"), key=jax.random.key(0))
    assert isinstance(model, Classifier) and model.network.width == 6
    waves = jnp.asarray(noise(2, 3200))
    logits, _ = jax.vmap(model, (0, None), (0, None), axis_name="batch")(waves, state)
    assert logits.shape == (2, 2)


CONFIG = json.loads(
    """{"architectures": ["ClapModel"], "model_type": "clap", "audio_config": {"model_type": "clap_audio_model"},
    "text_config": {"model_type": "clap_text_model"}, "projection_dim": 512}"""
)
EXTRACTOR = {"feature_extractor_type": "ClapFeatureExtractor", "truncation": "rand_trunc", "frequency_min": 50}


def described(audio=None, text=None, extractor=None, **top):
    config = CONFIG | top
    config["audio_config"] = CONFIG["audio_config"] | (audio or {})
    config["text_config"] = CONFIG["text_config"] | (text or {})
    return families.describe("owner/clap", config, lambda file: EXTRACTOR | (extractor or {}))


def test_defaults_are_transformers():
    entry = described()
    check_entry(entry, "it")
    published = zoo.info("clap_unfused")
    model, _ = eqx.filter_eval_shape(zoo.create, entry, key=jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(model) if hasattr(leaf, "shape")) == 153_492_890
    same, _ = eqx.filter_eval_shape(zoo.create, published, key=jax.random.key(0))
    shapes = [
        [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(each) if hasattr(leaf, "shape")] for each in (model, same)
    ]
    assert shapes[0] == shapes[1]
    assert (entry.window, entry.task, model.network.frames) == (10.0, "contrastive", 1001)
    assert model.frontend == same.frontend


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": {"fusion_type": "channel_map"}}, "fusion_type 'channel_map'"),
        ({"audio": {"patch_stride": [2, 2]}}, "squares side by side"),
        ({"audio": {"hidden_size": 700}}, "hidden_size 700"),
        ({"audio": {"hidden_act": "tanh"}}, "activation 'tanh'"),
        ({"audio": {"novel": 1}}, "the field novel"),
        ({"audio": {"num_mel_bins": 128}}, "num_mel_bins 128"),
        ({"text": {"position_embedding_type": "relative_key"}}, "relative_key"),
        ({"text": {"novel": 1}}, "the field novel"),
        ({"audio_config": 3, "audio": None}, None),
        ({"architectures": ["ClapTextModel"]}, "is a 'ClapTextModel'"),
        ({"extractor": {"truncation": "none"}}, "truncation 'none'"),
        ({"extractor": {"padding": True}}, "padding True"),
        ({"extractor": {"top_db": 80}}, "top_db 80"),
        ({"extractor": {"novel": 1}}, "the field novel"),
    ],
)
def test_what_the_zoo_does_not_have_is_refused(options, message):
    if message is None:
        with pytest.raises(ValueError, match=r"as audio_config in its config\.json"):
            families.describe("owner/clap", CONFIG | {"audio_config": 3}, lambda file: EXTRACTOR)
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        described(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"audio": {"spec_size": 1 << 16}},
        {"text": {"num_hidden_layers": 10_000}},
        {"extractor": {"max_length_s": 10_000}},
    ],
)
def test_what_asks_for_too_much_is_refused(options):
    with pytest.raises(ValueError, match=r"do not trust it|which are 1000001 frames, .* which takes 1024"):
        check_entry(described(**options), "it")


@pytest.mark.parametrize("kind", ["ClapAudioModelWithProjection", "ClapAudioModel"])
def test_an_audio_tower_alone_is_an_encoder(shared, tmp_path, kind):
    source = shared / "oracles" / "clap_unfused"
    config = json.loads((source / "config.json").read_text())["audio_config"] | {"architectures": [kind]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(source / "preprocessor_config.json", tmp_path)
    arrays = {key: array for key, array in load_file(source / "model.safetensors").items() if key.startswith("audio_")}
    if kind == "ClapAudioModel":
        arrays = {key[12:]: array for key, array in arrays.items() if key.startswith("audio_model.")}
    save_file(arrays, tmp_path / "model.safetensors")
    clip = zoo.load(tmp_path)
    whole = zoo.load(source).model.network
    assert clip.entry.task == "embedding"
    np.testing.assert_array_equal(clip.model.network.norm.weight, whole.norm.weight)
    if kind == "ClapAudioModel":
        assert clip.model.network.projection is None and clip.model.network.width == whole.norm.channels
    else:
        np.testing.assert_array_equal(clip.model.network.projection.linear2.weight, whole.projection.linear2.weight)


# From the shell -------------------------------------------------------------------------------------------------------


def test_tag_and_detect_take_labels_in_words(capsys, folder, sound):
    assert main(["tag", str(sound), "--model", str(folder), "--labels", "dog, rain,siren", "--json"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert {tag["label"] for tag in row["tags"]} == {"dog", "rain", "siren"}
    assert row["model"] == "small_zero_shot" and abs(sum(tag["probability"] for tag in row["tags"]) - 1) < 1e-5
    options = ["--labels", "dog,rain", "--prompt", "{}", "--threshold", "0"]
    assert main(["detect", str(sound), "--model", str(folder), *options]) == 0
    assert re.search(r"0\.00 to 20\.00 s .* dog", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "resnet_esc10", "--labels", "dog"], "has no words, so it takes no --labels"),
        (["--model", "resnet_esc10", "--prompt", "{}"], "give them too, --labels"),
        (["--model", "FOLDER"], "words instead of classes: give labels, --labels"),
        (["--model", "FOLDER", "--labels", "dog,dog"], "each class once"),
        (["--model", "FOLDER", "--labels", "dog", "--prompt", "x"], "got 'x'"),
    ],
)
def test_labels_that_make_no_sense_end_in_a_sentence(capsys, folder, sound, words, message):
    assert main(["tag", str(sound), *(str(folder) if word == "FOLDER" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_the_pages_code_runs(clip, tmp_path, monkeypatch):
    text = (pathlib.Path(pages.ROOT) / "docs" / "zoo.md").read_text()
    (section,) = re.findall(r"^### Words and sounds\n(.*?)^###? ", text, re.DOTALL | re.MULTILINE)
    code = "\n".join(re.findall(r"^    (?!audax-zoo)(.*)$", section, re.MULTILINE))
    assert "embed_text" in code and "zero_shot" in code
    monkeypatch.setattr(zoo, "load", lambda name: clip)
    monkeypatch.chdir(tmp_path)
    names = {"zoo": zoo, "wave": noise(2000), "recordings": [(noise(2000), RATE)]}
    exec(code, names)
    assert names["cosines"].shape == (2,) and len(names["tags"]) == 3
