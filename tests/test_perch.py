"""Perch against its authors' Flax code and closed forms, and bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import KEY, error
from golden.perch import FRONTENDS, NETWORKS, prepared, sounds
from golden.seeded import uniform
from perch_tree import golden, tree
from safetensors.numpy import save_file

import zoo
from audax_eqx.frontends import PerchLogMel
from audax_eqx.layers import Prototypes
from audax_eqx.models import Classifier
from audax_eqx.networks import EfficientNet
from zoo._create import skeleton
from zoo._leaves import named_leaves
from zoo.families import perch

PARAMETERS = {"perch_v2": 10_695_512}  # of the authors' EfficientNet-B3


OPTIONS = {
    "released": {},
    "code": {"framing": "center", "floor": 1e-2},
    "small": {
        "bins": 40,
        "sample_rate": 16000,
        "hop_length": 200,
        "win_length": 500,
        "n_fft": 512,
        "f_min": 100.0,
        "f_max": 7000.0,
        "floor": 1e-4,
    },
}
SEVEN = {"depths": (1,) * 7, "widths": (4, 4, 4, 4, 4, 8, 8, 8)}


# The frontend ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sound", ["noise", "odd", "clicks"])
@pytest.mark.parametrize("name", FRONTENDS)
def test_the_log_mel_is_the_authors(name, sound):
    ours = PerchLogMel(**OPTIONS[name])(jnp.asarray(sounds()[sound], jnp.float32))
    assert error(ours[::5], golden()[f"{name}/{sound}"]) < 1e-5


def test_loudness_and_a_constant_are_not_heard():
    frontend, wave = PerchLogMel(), jnp.asarray(uniform("wave", (3200,)), jnp.float32)
    assert error(frontend(40.0 * wave + 7.0), frontend(wave)) < 1e-4
    assert error(PerchLogMel(peak=None)(jnp.asarray(prepared(np.asarray(wave)))), frontend(wave)) < 1e-6
    assert error(PerchLogMel(peak=None)(0.5 * wave), frontend(wave)) > 1e-2


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 640, 1601])
def test_a_frame_begins_with_each_hop_and_silence_is_the_floor(samples):
    for frontend in (PerchLogMel(), PerchLogMel(framing="center"), PerchLogMel(win_length=100)):
        mel = frontend(jnp.zeros(samples))
        assert mel.shape == (-(-samples // 320), 128)
        np.testing.assert_allclose(mel, 0.1 * np.log(1e-5), rtol=1e-6)


def test_the_gradient_of_silence_is_finite():
    gradient = jax.grad(lambda wave: jnp.sum(PerchLogMel()(wave)))(jnp.zeros(1000))
    assert np.isfinite(gradient).all()


def test_the_centre_of_a_frame_is_where_a_click_is_loudest():
    for framing in ("same", "center"):
        frontend = PerchLogMel(framing=framing)
        centre = round(32000 * frontend.times(np.array([3.0]))[0])
        mel = frontend(jnp.zeros(3200).at[centre].set(1.0))
        assert int(jnp.argmax(jnp.mean(mel, axis=1))) == 3


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"win_length": 2000}, "a window that fits into n_fft.*win_length=2000"),
        ({"f_max": 20000.0}, "at most half the sample rate.*f_max=20000"),
        ({"bins": 0}, "at least 1 bin"),
        ({"floor": 0.0}, r"must be > 0, got floor=0\.0"),
        ({"peak": -1.0}, r"peak=-1\.0"),
    ],
)
def test_a_frontend_that_makes_no_sense_is_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        PerchLogMel(**options)


def test_an_empty_wave_is_refused():
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        PerchLogMel()(jnp.zeros(0))


# The network, by the names of Flax ------------------------------------------------------------------------------------


def converted(tmp_path, arrays, **options):
    arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    save_file(arrays, tmp_path / "perch.safetensors")
    return zoo.convert(tmp_path / "perch.safetensors", tmp_path / "made", window=0.2, **options)


@eqx.filter_jit
def outputs(model, x, state):
    """The map, the embedding and the logits; compiled together, because XLA shares what they have in common."""
    maps, _ = model.network.features(x, state)
    return maps, model.network.pool_map(maps), model.classify(x, state)[0]


@pytest.mark.parametrize("head", ["prototypes", "dense"])
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_embeddings_and_logits_are_the_authors(tmp_path, name, head):
    _, _, activation, size = NETWORKS[name]
    arrays = tree(name, head)
    if head == "dense":
        arrays = {key.replace("/", "."): array for key, array in arrays.items()}
    clip = zoo.load(converted(tmp_path, arrays, network={"activation": activation}))
    x = jnp.asarray(uniform("x", (1, *size, 1))[0, :, :, 0], jnp.float32)
    maps, embedding, logits = outputs(clip.model, x, clip.state)
    assert error(maps, golden()[f"{name}/map"]) < 1e-5
    assert error(embedding, golden()[f"{name}/map"].mean(axis=(0, 1))) < 1e-5
    assert error(logits, golden()[f"{name}/{head}"]) < 1e-5
    assert (clip.entry.license, clip.entry.source) == (None, None)  # nobody knows who trained it


def test_a_network_without_a_head_is_an_encoder(tmp_path):
    clip = zoo.load(converted(tmp_path, tree("released", "none", depth=1)))
    assert clip.entry.task == "embedding" and clip(np.ones(6400, np.float32)).shape == (80,)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda arrays: arrays | {"params/heads_two/Dense_0/bias": np.zeros(5, np.float32)}, "2 heads, heads_label, h"),
        (lambda arrays: arrays | {"params/Stem_0/more": np.zeros(5, np.float32)}, "Stem_0/more matches 0 rules"),
        (lambda arrays: {k: v for k, v in arrays.items() if "Head_0/Conv" not in k}, "network.end.weight is missing"),
        (lambda arrays: {k: v for k, v in arrays.items() if "MBConv_3/Proj" not in k}, "no 'MBConv_3/ProjectConv/kern"),
        (
            lambda arrays: {k: v for k, v in arrays.items() if "MBConv_12/" not in k and "MBConv_13/" not in k},
            "6 stages that can be told apart",
        ),
    ],
)
def test_a_file_that_is_not_whole_is_told(tmp_path, change, fault):
    with pytest.raises(ValueError, match=fault):
        converted(tmp_path, change(tree("code", "dense")))


# The head -------------------------------------------------------------------------------------------------------------


def test_prototypes_are_their_equation_and_hear_the_first_steps_alone():
    head = Prototypes(6, 4, 2, key=KEY)
    x = uniform("map", (5, 3, 6)).astype(np.float32)
    x[0, 0] = 0.0
    scale = uniform("scale", (4, 2)).astype(np.float32)
    head = eqx.tree_at(lambda head: head.scale, head, jnp.asarray(scale))
    weight = np.asarray(head.weight)
    unit = [each / (np.linalg.norm(each, axis=-1, keepdims=True) + 1e-5) for each in (x, weight)]
    cosines = np.einsum("tfd,cpd->tfcp", *unit)
    expected = np.sum(np.maximum(scale, 0) * cosines.max(axis=(0, 1)), axis=-1) - 2
    assert error(head(jnp.asarray(x)), expected) < 1e-6
    loud = jnp.asarray(x).at[3:].set(weight[0, 0])
    assert error(head(loud, length=3), head(jnp.asarray(x[:3]))) < 1e-6
    assert error(head(loud), head(jnp.asarray(x[:3]))) > 1e-2


def test_prototypes_have_gradients_and_compute_in_bfloat16():
    head = Prototypes(6, 4, 2, key=KEY)
    x = jnp.asarray(uniform("map", (5, 3, 6)), jnp.float32)
    gradients = jax.grad(lambda head: jnp.sum(head(x.at[0].set(0.0))))(head)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    small = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), head)
    logits = small(x.astype(jnp.bfloat16))
    assert logits.dtype == jnp.float32 and error(logits, head(x)) < 2e-2


def test_prototypes_and_parts_of_an_embedding_are_refused():
    network = EfficientNet(**SEVEN, key=KEY)
    for options in ({"cosine": 30.0}, {"projection": 4}, {"hidden": (4,)}, {"norm": 1e-5}):
        with pytest.raises(ValueError, match="reads the feature map: leave norm, projection, hidden and cosine out"):
            Classifier(PerchLogMel(), network, 3, prototypes=2, **options, key=KEY)
    with pytest.raises(ValueError, match="at least 1 prototype"):
        Prototypes(4, 3, 0, key=KEY)


def test_recordings_and_their_steps_are_scored(tmp_path):
    clip = zoo.load(converted(tmp_path, tree("released", "prototypes", depth=1), labels=tuple("abcdefg")))
    wave = np.asarray(uniform("wave", (16000,)), np.float32)  # two windows and a half
    (whole,) = zoo.tag(clip, [(wave, 32000)])
    (steps,) = zoo.tag(clip, [(wave, 32000)], each="frame")
    assert whole.values.shape == (1, 7) and steps.values.shape[1] == 7
    np.testing.assert_allclose(steps.values.sum(axis=1), 1.0, rtol=1e-5)
    logits = clip(wave[:6400])
    assert clip.top(wave[:6400], k=7)[0][0] == "abcdefg"[int(np.argmax(logits))]
    thawed = clip.thaw(classes=3, key=KEY)
    zoo.save(tmp_path / "thawed", *thawed, thawed.entry)
    assert isinstance(thawed[0].head, Prototypes) and zoo.load(tmp_path / "thawed").model.head.outputs == 3


def test_the_released_model_has_the_published_number_of_arrays_and_parameters():
    model, state = skeleton(perch.ENTRIES[0])
    sizes = [np.prod(leaf.shape, dtype=int) for leaf in named_leaves(model, state).values()]
    assert (len(sizes), sum(sizes)) == (497, 101_757_263)
    assert model.network.width == 1536
    parameters = jax.tree.leaves(eqx.filter(model.network, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)))
    assert sum(leaf.size for leaf in parameters) == PARAMETERS["perch_v2"]
    shape = eqx.filter_eval_shape(eqx.nn.inference_mode(model), jax.ShapeDtypeStruct((160_000,), jnp.float32), state)[
        0
    ].shape
    assert shape == (14795,)
