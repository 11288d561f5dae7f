"""CLAP's frontend, its two towers and its config.json against oracles and closed forms."""

import json
import re
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import error
from clap import ENTRY, FRONTEND, NETWORK, SECONDS, TEXT, noise
from golden.seeded import fill
from safetensors.numpy import load_file, save_file

import zoo
from audax_eqx import networks
from audax_eqx.frontends import CLAPLogMel, LogMel
from audax_eqx.layers import SwinBlock
from audax_eqx.networks import HTSAT, RoBERTa
from audax_eqx.networks.htsat import _stretch
from zoo import families
from zoo._limits import check_entry

PARAMETERS = {"htsat_tiny": 27_534_488, "htsat_base": 67_824_408}  # transformers', less the projection


FILLS = ("repeatpad", "repeat", "pad")


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
    whole = np.tile(wave, {"repeatpad": size // samples, "repeat": size, "pad": 1}[fill])[:size]
    expected = LogMel(**options, mel_scale="slaney", norm="slaney", f_min=50.0)(
        jnp.asarray(np.pad(whole, (0, size - len(whole))))
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
    changes = np.abs(np.asarray(maps)[:-1] - np.asarray(maps)[-1]).sum(axis=(2, 3))  # frame raised x step
    positions = network.positions(32, 0)
    assert changes.shape == (41, 32)
    assert np.abs(positions[changes.argmax(axis=1)] - np.arange(41)).max() <= 1.0
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
    changes = np.abs(run(x.at[7, 7, 0].add(1.0)) - run(x)).max(axis=2) > 0
    expected = np.zeros((8, 8), bool)
    expected[6:, 6:] = True  # what is left of the last window, of which the rest lies at the other ends
    np.testing.assert_array_equal(changes, expected)
    changes = np.abs(run(x.at[3, 3, 0].add(1.0)) - run(x)).max(axis=2) > 0
    np.testing.assert_array_equal(np.argwhere(changes).min(axis=0), [2, 2])
    np.testing.assert_array_equal(np.argwhere(changes).max(axis=0), [5, 5])


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
        longer = jnp.concatenate([tokens, jnp.full(6, behind, jnp.int32)])
        np.testing.assert_allclose(run(text, longer, jnp.asarray(5)), alone, atol=1e-6)
    assert error(run(text, tokens[jnp.asarray([0, 6, 5, 4, 2]) % 5], None), alone) > 1e-3
    assert text.most_tokens == 38 and text.width == 6
    with pytest.raises(ValueError, match="1 to 38 tokens, got 39"):
        text(jnp.zeros(39, jnp.int32))
    with pytest.raises(ValueError, match="positions for 2 tokens"):
        RoBERTa(8, 1, 2, positions=3, key=jax.random.key(0))


def test_towers_of_several_widths_are_told():
    with pytest.raises(ValueError, match="have 6 and 5 numbers"):
        zoo.create(ENTRY.replace(model={"type": "CLAP", "text": TEXT | {"projection": 5}}), key=jax.random.key(0))


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
