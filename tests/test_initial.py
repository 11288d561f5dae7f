"""What parameters start with: in one program, whatever their shapes, and never weakly typed."""

import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from audax_eqx import AbstractNetwork, frontends, models, networks
from audax_eqx.layers import initial

KEY = jax.random.key(0)
NAMED = {name: getattr(networks, name) for name in networks.__all__}
SIZES = {name: made for name, made in NAMED.items() if isinstance(made, functools.partial)}
NETWORKS = {made.func: name for name, made in reversed(SIZES.items())}  # one size of each, the first
FRONTENDS = {
    "log_mel": lambda: frontends.LogMel(8000),
    "kaldi": lambda: frontends.KaldiFbank(16000),
    "pcen": lambda: frontends.PCEN(8000),
    "sincnet": lambda: frontends.SincNet(8000),
    "wav2vec group": lambda: frontends.Wav2Vec(key=KEY),
    "wav2vec layer": lambda: frontends.Wav2Vec(norm="layer", bias=True, key=KEY),
} | {
    f"leaf {init}": lambda init=init: frontends.LEAF(8000, init=init, key=KEY)
    for init in ("mel", "normal", "lecun_normal", "kaiming_normal")
}
MODELS = {
    "classifier": lambda *parts: models.Classifier(*parts, 3, norm=1e-6, key=KEY),
    "projecting classifier": lambda *parts: models.Classifier(*parts, 3, projection=2, key=KEY),
    "encoder": lambda *parts: models.Encoder(*parts, outputs=2, key=KEY),
    "weighted encoder": lambda frontend, network: models.Encoder(frontend, models.WeightedLayers(network, 1), key=KEY),
    "x-vector": lambda frontend, network: models.Encoder(frontend, networks.XVector(network, key=KEY), key=KEY),
    "cola": lambda *parts: models.COLA(*parts, 8, key=KEY),
    "simclr": lambda *parts: models.SimCLR(*parts, 8, key=KEY),
    "linear simclr": lambda *parts: models.SimCLR(*parts, 8, linear=True, key=KEY),
}


def check(tree):
    """Of a weakly typed leaf and its successor, which an update makes, a program is compiled for each."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            assert not leaf.weak_type and leaf.dtype == np.float32, jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", NETWORKS.values())
def test_no_leaf_of_a_network_or_of_its_state_is_weakly_typed(name):
    check(eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=KEY))


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_no_leaf_of_a_frontend_is_weakly_typed(frontend):
    check(FRONTENDS[frontend]())


@pytest.mark.parametrize("model", MODELS)
def test_no_leaf_of_a_model_is_weakly_typed(model):
    def build():
        return MODELS[model](FRONTENDS["leaf mel"](), networks.ConvNeXt((1,), (8,), input_norm=64, key=KEY))

    check(eqx.nn.make_with_state(build)())


def test_every_class_of_networks_is_covered():
    classes = {made for made in NAMED.values() if inspect.isclass(made) and issubclass(made, AbstractNetwork)}
    assert set(NETWORKS) == classes - {networks.WeightedLayers, networks.XVector}  # which take a network


def test_new_shapes_compile_nothing(caplog):
    jax.block_until_ready((initial.normal(KEY, (3,), 1.0), *initial.split(KEY, 2)))
    wide = zoo.info("resnet_esc10")
    with jax.log_compiles(), caplog.at_level("WARNING"):
        initial.normal(KEY, (7, 11, 13), 0.5), initial.full(17, 0.1), initial.split(KEY, 19)
        zoo.create(wide, key=KEY)
        for build in (
            lambda: networks.ConvNeXt((1, 2), (9, 21), input_norm=33, key=KEY),
            lambda: networks.ResNet((1, 2), (9, 21), key=KEY),
            lambda: networks.EfficientNet((1,) * 7, (9,) * 8, key=KEY),
            lambda: networks.MobileNetV2((1,) * 7, (9,) * 8, key=KEY),
            lambda: networks.AST(22, 1, 2, bins=33, key=KEY),
            lambda: networks.CED(22, 1, 2, bins=33, key=KEY),
            lambda: networks.CNN((9, 21), (1, 1), key=KEY),
            lambda: networks.PANNsResNet((1, 1), (9, 21), key=KEY),
            lambda: networks.Whisper(22, 1, 2, bins=33, key=KEY),
            lambda: networks.Wav2Vec2(22, 1, 2, bins=33, groups=11, kernel=7, buckets=12, key=KEY),
            lambda: networks.BEATs(22, 1, 2, embedding=9, groups=11, kernel=7, buckets=12, patch=3, key=KEY),
            lambda: frontends.Wav2Vec(widths=(9,) * 7, key=KEY),
            lambda: MODELS["x-vector"](FRONTENDS["wav2vec group"](), networks.ConvNeXt((1,), (9,), key=KEY)),
            lambda: MODELS["cola"](FRONTENDS["leaf mel"](), networks.ConvNeXt((1,), (9,), key=KEY)),
            lambda: MODELS["simclr"](FRONTENDS["sincnet"](), networks.ConvNeXt((1,), (9,), key=KEY)),
        ):
            eqx.nn.make_with_state(build)()
    assert [record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()] == []


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (initial.CHUNK,), (3, initial.CHUNK // 2 + 1)])
def test_numbers_are_the_same_with_and_without_jit_and_under_vmap(shape):
    numbers = initial.normal(KEY, shape, 0.3)
    jitted = jax.jit(lambda key: initial.normal(key, shape, 0.3))(KEY)
    mapped = jax.vmap(lambda key: initial.normal(key, shape, 0.3))(jnp.stack([KEY, KEY]))
    assert numbers.shape == jitted.shape == shape and numbers.dtype == jitted.dtype == np.float32
    np.testing.assert_allclose(numbers, jitted, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(numbers, mapped[1], rtol=1e-5, atol=1e-8)


def test_numbers_are_normal_and_none_comes_twice():
    count = 3 * initial.CHUNK
    numbers = np.sort(np.asarray(initial.normal(KEY, (3, initial.CHUNK), 2.0)).ravel() / 2)
    below = np.searchsorted(numbers, [-2.0, -1.0, 0.0, 1.0, 2.0]) / count
    np.testing.assert_allclose(below, [0.02275, 0.15866, 0.5, 0.84134, 0.97725], atol=4 * 0.5 / count**0.5)
    assert len(np.unique(numbers)) > 0.97 * count  # of 2^23 numbers that can be drawn
    other = initial.normal(jax.random.key(1), (3,), 2.0)
    np.testing.assert_array_equal(initial.normal(KEY, (3,), 2.0), initial.normal(KEY, (3,), 2.0))
    assert not np.isin(other, initial.normal(KEY, (initial.CHUNK,), 2.0)).all()


def test_keys_differ_from_each_other_and_are_the_same_with_jit():
    keys = jax.random.key_data(jnp.stack(initial.split(KEY, 9)))
    assert len({tuple(each) for each in keys.tolist()}) == 9
    np.testing.assert_array_equal(keys, jax.jit(lambda key: jax.random.key_data(jnp.stack(initial.split(key, 9))))(KEY))
    np.testing.assert_array_equal(keys[:2], jax.random.key_data(jnp.stack(initial.split(KEY, 2))))


def test_a_legacy_key_gives_numbers_too():
    assert initial.normal(initial.split(jax.random.PRNGKey(0), 2)[0], (3,), 1.0).shape == (3,)
