"""What holds for every network: one example or a batch, any length, any precision, silence, inference, training."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import test_ast
import test_beats
import test_ced
import test_clap
import test_cnn
import test_convnext
import test_dasheng
import test_ecapa
import test_efficientat
import test_efficientnet
import test_mobilenet
import test_panns_resnet
import test_passt
import test_perch
import test_resnet
import test_speech
import test_wespeaker
from arrays import error, noise
from golden.seeded import fill

from audax_eqx import AbstractNetwork, networks
from audax_eqx.networks import (
    AST,
    CED,
    CNN,
    ECAPA,
    HTSAT,
    BEATs,
    ConvNeXt,
    DyMN,
    EfficientNet,
    MobileNetV2,
    MobileNetV3,
    PANNsResNet,
    PaSST,
    ResNet,
    Wav2Vec2,
    WeightedLayers,
    WeSpeaker,
    Whisper,
    XVector,
)

BINS = 24
KEY = jax.random.key(0)
SEVEN = ((1, 1, 1, 1, 1, 1, 1), (4, 4, 4, 4, 4, 4, 4, 4))  # residual at the first, fifth and last block
SPEECH = {"bins": BINS, "kernel": 8, "groups": 2}
SQUARE = {"bins": BINS, "frames": 33, "image": 48, "patch": 4, "window": 3}
NETWORKS = {
    "convnext": functools.partial(ConvNeXt, (1, 0, 0, 1), (4, 4, 4, 8), input_norm=BINS, drop_path=0.5),
    "resnet basic": functools.partial(ResNet, (1, 1), (4, 8)),
    "resnet bottleneck": functools.partial(ResNet, (1, 1), (4, 8), bottleneck=True),
    "efficientnet": functools.partial(EfficientNet, *SEVEN, drop_path=0.5),
    "ast": functools.partial(AST, 8, 2, 2, bins=BINS, frames=64, drop_path=0.5),
    "ced": functools.partial(CED, 8, 2, 2, bins=BINS, frames=64, patch=8, drop_path=0.5),
    "dasheng": functools.partial(CED, 8, 2, 2, bins=BINS, frames=64, patch=(4, BINS), fill=False, drop_path=0.5),
    "passt": functools.partial(PaSST, 8, 2, 2, grid=(30, 1), drop_path=0.5),
    "cnn": functools.partial(CNN, (4, 8), (2, 1), input_norm=BINS),
    "panns": functools.partial(PANNsResNet, (1, 1), (4, 4), input_norm=BINS),
    "mobilenet": functools.partial(MobileNetV2, (1,) * 7, (8,) * 8, embedding=32, input_norm=BINS),
    "mobilenet3": functools.partial(MobileNetV3, (8,) * 7, (8,) * 15),
    "dymn": functools.partial(DyMN, (8,) * 7, (8,) * 15, (8,) * 15),
    "ecapa": functools.partial(ECAPA, 8, 8, 8, bins=BINS, parts=4, squeezed=4, hidden=4),
    "wespeaker": functools.partial(WeSpeaker, (1, 1), 8, 4, bins=BINS),
    "wespeaker bottleneck": functools.partial(WeSpeaker, (1, 1), 16, 2, bins=BINS, bottleneck=True),
    "whisper": functools.partial(Whisper, 8, 2, 2, bins=BINS, drop_path=0.5),
    "speech base": functools.partial(Wav2Vec2, 8, 2, 2, **SPEECH, buckets=320, drop_path=0.5),
    "speech large": functools.partial(Wav2Vec2, 8, 2, 2, **SPEECH, norm_first=True, drop_path=0.5),
    "speech data2vec": functools.partial(Wav2Vec2, 8, 2, 2, **SPEECH, position_layers=2, drop_path=0.5),
    "speech weighted": lambda key: WeightedLayers(Wav2Vec2(8, 2, 2, **SPEECH, key=key)),
    "beats": functools.partial(BEATs, 8, 2, 2, patch=8, embedding=12, kernel=8, groups=2, drop_path=0.5),
    "htsat": functools.partial(HTSAT, (2, 1), (2, 2), 4, **SQUARE, drop_path=0.3),
    "xvector": lambda key: XVector(Wav2Vec2(8, 2, 2, **SPEECH, key=key), 8, widths=(8,) * 5, key=key),
}
STEPS = {  # of the feature map, by frames
    "convnext": {1: 1, 33: 1, 3000: 93},
    "resnet": {1: 1, 33: 5, 3000: 375},
    "efficientnet": {1: 1, 33: 2, 3000: 94},
    "ast": {1: 1, 33: 2, 3000: 299},
    "ced": {1: 1, 33: 4, 3000: 47 * 8},  # chunks of 8 patches
    "dasheng": {1: 1, 33: 8, 3000: 750},  # of the last, shorter chunk too
    "passt": {1: 1, 33: 2, 3000: 30},  # the end of a longer input is cut off
    "cnn": {1: 1, 33: 16, 3000: 1500},
    "panns": {1: 1, 33: 4, 3000: 375},
    "mobilenet": {1: 1, 33: 1, 3000: 93},
    "mobilenet3": {1: 1, 33: 2, 3000: 94},
    "dymn": {1: 1, 33: 2, 3000: 94},
    "ecapa": {1: 1, 33: 33, 3000: 3000},
    "wespeaker": {1: 1, 33: 17, 3000: 1500},
    "whisper": {1: 1, 33: 17, 3000: 1500},
    "speech": {1: 1, 33: 33, 3000: 3000},
    "beats": {1: 1, 33: 4, 3000: 375},
    "htsat": {1: 12, 33: 12},  # which stretches the frames, and takes no more than 96
    "xvector": {1: 1, 33: 19, 3000: 2986},
}
LAYERS = {"convnext": 4, "resnet": 2, "efficientnet": 8, "ast": 3, "ced": 3, "cnn": 2, "panns": 3, "mobilenet": 8}
LAYERS |= {"ecapa": 5, "wespeaker": 2, "whisper": 3, "speech": 3, "beats": 3, "xvector": 3, "htsat": 3}
LAYERS |= {"dasheng": 3, "passt": 3, "mobilenet3": 7, "dymn": 7}
NORMS = ("ast", "ced", "dasheng", "htsat", "passt", "speech large")  # one between the last layer and the feature map
STATELESS = ("ast", "passt", "whisper", "speech", "beats", "xvector")
DROPS_NOTHING = ("resnet basic", "resnet bottleneck", "mobilenet", "mobilenet3", "dymn", "ecapa", "speech weighted")
DROPS_NOTHING += ("wespeaker", "wespeaker bottleneck", "xvector")
every_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def seeded(name):
    """The small network in inference mode, and its State."""
    network, state = fill(NETWORKS[name])
    return eqx.nn.inference_mode(network), state


@eqx.filter_jit
def embed(network, state, x, key=KEY):
    """The embedding; without dropout the key has no part in it, and one program serves all tests."""
    return network(x, state, key=key)


@eqx.filter_jit
def embed_batch(network, state, x):
    return eqx.filter_vmap(network, in_axes=(0, None), out_axes=(0, None))(x, state)


@eqx.filter_jit
def train(network, state, x, keys):
    """The gradients of a batch's loss by network and input, and the State that it leaves."""

    def loss(pair):
        network, x = pair
        run = jax.vmap(lambda x, key: network(x, state, key=key), out_axes=(0, None), axis_name="batch")
        y, state_after = run(x, keys)
        return jnp.sum(y * noise(*y.shape, seed=1)), state_after

    return eqx.filter_grad(loss, has_aux=True)((network, x))


# One example ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 33, 3000])
@every_network
def test_any_number_of_frames(name, frames):
    network, state = seeded(name)
    x = noise(frames, BINS)
    if frames not in STEPS[name.split()[0]]:
        with pytest.raises(ValueError, match=f"got {frames}"):
            embed(network, state, x)
        return
    y, _ = embed(network, state, x)
    assert y.shape == (network.width,)
    assert np.all(np.isfinite(y)) and 0.01 < np.abs(y).max() < 100
    time = STEPS[name.split()[0]][frames]
    assert eqx.filter_eval_shape(network.features, x, state)[0].shape[::2] == (time, network.width)
    positions = network.positions(time)
    assert positions.shape == (time,) and np.all(np.diff(positions) > 0)


@every_network
def test_layers_are_the_maps_on_the_way_to_the_last(name):
    network, state = seeded(name)
    x = noise(40, BINS)

    @eqx.filter_jit
    def run(network, state, x):
        (layers, after), (features, state_of_features) = network.layers(x, state), network.features(x, state)
        return layers, features, layers[-1] if name not in NORMS else network.norm(layers[-1]), after, state_of_features

    layers, features, last, after, state_of_features = run(network, state, x)
    assert len(layers) == LAYERS[name.split()[0]]
    if name == "speech weighted":
        last = np.tensordot(jax.nn.softmax(network.weights), np.stack(layers), 1)
    if name != "xvector":  # whose map is made of the last layer
        np.testing.assert_allclose(features, last, rtol=1e-5, atol=1e-6)
    assert all(map(np.array_equal, jax.tree.leaves(after), jax.tree.leaves(state_of_features)))
    times = [len(network.positions(len(each), layer)) for layer, each in enumerate(layers)]
    assert times == [len(each) for each in layers] == sorted(times, reverse=True)
    for before, each in itertools.pairwise(layers):
        assert before.shape != each.shape or error(before, each) > 1e-3


def test_a_network_that_defines_no_layers_has_its_feature_map():
    class Plain(AbstractNetwork):
        width: int = 2

        def features(self, x, state, *, key=None):
            return 2 * x[:, None], state

        def __call__(self, x, state, *, key=None):
            return x[0], state

        def positions(self, time):
            return np.arange(time)

    state = eqx.nn.State({})
    layers, after = Plain().layers(jnp.ones((3, 2)), state)
    assert after is state and len(layers) == 1
    np.testing.assert_array_equal(layers[0], 2 * np.ones((3, 1, 2)))


@every_network
def test_a_batch_is_a_loop(name):
    network, state = seeded(name)
    x = noise(3, 33, BINS)
    loop = np.stack([embed(network, state, one)[0] for one in x])
    assert error(loop[1], loop[0]) > 1e-3
    assert error(embed_batch(network, state, x)[0], loop) < 1e-5


@every_network
def test_bfloat16_is_close_to_float32(name):
    network, state = seeded(name)
    x = noise(33, BINS)
    parameters, static = eqx.partition(network, eqx.is_array)
    narrow = eqx.combine(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), parameters), static)
    y, _ = embed(narrow, state, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert 0 < error(y, embed(network, state, x)[0]) < 3e-2


@every_network
def test_inference_ignores_the_key_and_keeps_the_statistics(name):
    network, state = seeded(name)
    x = noise(33, BINS)
    first, _ = embed(network, state, x)
    for key in jax.random.split(jax.random.key(1), 8):
        y, state_after = embed(network, state, x, key)
        np.testing.assert_array_equal(y, first)
        assert all(map(np.array_equal, jax.tree.leaves(state_after), jax.tree.leaves(state)))


@every_network
def test_wrong_shapes_are_named(name):
    network, state = seeded(name)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[2,33,24\][\s\S]*'frames bins'"):
        network(noise(2, 33, BINS), state)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[33\][\s\S]*'frames bins'"):
        network.features(noise(33), state)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"i32\[33,24\][\s\S]*'frames bins'"):
        network(jnp.ones((33, BINS), jnp.int32), state)


# Training -------------------------------------------------------------------------------------------------------------


@every_network
def test_training_has_finite_gradients_and_moves_the_state(name):
    network, state = seeded(name)
    network = eqx.nn.inference_mode(network, value=False)
    shape, keys = (8, 33, BINS), jax.random.split(jax.random.key(2), 8)
    for x in (jnp.full(shape, -100.0), jnp.zeros(shape), 100.0 * noise(*shape)):
        gradient, state_after = train(network, state, x, keys)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((gradient, state_after)))
    names = [jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(gradient) if not np.any(leaf)]
    assert not names  # every parameter learns something from noise, and so would the input

    before, after = jax.tree.leaves(state), jax.tree.leaves(state_after)
    assert (name.split()[0] in STATELESS) == (len(before) == 0)
    for old, new in zip(before, after, strict=True):
        assert old.shape == new.shape and new.dtype == jnp.float32
        assert name == "dymn" or not np.any(old == new)  # the ranges and starts of its ReLUs stay as they are

    again, _ = train(network, state, x, jax.random.split(jax.random.key(5), 8))
    differs = any(not np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (gradient, again)), strict=True))
    assert differs == (name not in DROPS_NOTHING)


# The registry ---------------------------------------------------------------------------------------------------------


def test_every_variant_is_counted():
    variants = [name for name in networks.__all__ if isinstance(getattr(networks, name), functools.partial)]
    tests = (
        test_ast,
        test_beats,
        test_ced,
        test_clap,
        test_cnn,
        test_convnext,
        test_dasheng,
        test_ecapa,
        test_efficientat,
        test_efficientnet,
        test_mobilenet,
        test_panns_resnet,
        test_passt,
        test_perch,
        test_resnet,
        test_speech,
        test_wespeaker,
    )
    assert sorted(variants) == sorted(name for test in tests for name in test.PARAMETERS)
