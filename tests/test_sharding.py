"""A batch that is spread over devices stays so: each computes its share, and the numbers are those of one device."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from audax_eqx import features, frontends, networks

KEY = jax.random.key(0)
RATE, BATCH = 8000, 12
COLLECTIVES = r" (all-gather|all-to-all|all-reduce|collective-\w+|reduce-scatter)\("
FRONTENDS = {
    "log_mel": lambda: frontends.LogMel(RATE, 16, n_fft=256, hop_length=80),
    "audax_log_mel": lambda: frontends.audax_log_mel(16000),
    "kaldi": lambda: frontends.KaldiFbank(RATE, 16),
    "pcen": lambda: frontends.PCEN(RATE, 16, n_fft=256, hop_length=80),
    "leaf": lambda: frontends.LEAF(RATE, 5, key=KEY),
    "sincnet": lambda: frontends.SincNet(RATE, 5),
}
NETWORKS = {
    "convnext": lambda: networks.ConvNeXt((1, 1), (8, 16), input_norm=32, stem_padding=(4, 0), key=KEY),
    "resnet": lambda: networks.ResNet((1, 1), (8, 16), key=KEY),
    "bottlenecks": lambda: networks.ResNet((1, 1), (8, 16), bottleneck=True, key=KEY),
    "efficientnet": lambda: networks.EfficientNet((1,) * 7, (8,) * 8, key=KEY),
    "mobilenet": lambda: networks.MobileNetV2((1,) * 7, (8,) * 8, embedding=8, key=KEY),
    "ast": lambda: networks.AST(16, 1, 2, bins=32, frames=101, key=KEY),
    "ast of another length": lambda: networks.AST(16, 1, 2, bins=32, frames=50, key=KEY),
    "ced": lambda: networks.CED(16, 1, 2, bins=32, frames=48, key=KEY),
    "cnn": lambda: networks.CNN((8, 16), (2, 2), key=KEY),
    "panns_resnet": lambda: networks.PANNsResNet((1, 1), (8, 16), key=KEY),
}
FEATURES = {
    "stereo": lambda wave: features.mel_spectrogram(wave.reshape(2, -1), RATE, 256, n_mels=16),
    "four channels": lambda wave: jax.vmap(lambda part: features.mfcc(part, RATE))(wave.reshape(4, -1)),
    "and back": lambda wave: features.istft(features.stft(wave, 256), 256),
    "resample": lambda wave: features.resample(wave, 8000, 12000),
}


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture(params=[AxisType.Explicit, AxisType.Auto], ids=str)
def mesh(request):
    return jax.make_mesh((4,), ("data",), axis_types=(request.param,))


def compiled(function, *arguments):
    """What the program returns, and the names of the collectives in it."""
    program = jax.jit(function).lower(*arguments).compile()
    return program(*arguments), set(re.findall(COLLECTIVES, program.as_text()))


def check(function, batch, sharding):
    """Without collectives a device cannot work on more than the examples that it was given."""
    expected = jax.jit(function)(batch)
    result, collectives = compiled(function, jax.device_put(batch, sharding))
    assert not collectives
    assert {shard.data.shape[0] for shard in result.addressable_shards} == {len(batch) // 4}
    close(result, expected)


def close(result, expected, tolerance=2e-6):
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", FRONTENDS)
def test_each_device_has_a_share_of_a_frontends_batch(name, mesh):
    check(jax.vmap(FRONTENDS[name]()), noise(BATCH, 2000), NamedSharding(mesh, P("data")))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_device_has_a_share_of_a_networks_batch(name, mesh):
    network, state = eqx.nn.inference_mode(eqx.nn.make_with_state(NETWORKS[name])())
    check(jax.vmap(lambda x: network(x, state)[0]), noise(BATCH, 101, 32), NamedSharding(mesh, P("data")))


@pytest.mark.parametrize("name", FEATURES)
def test_features_of_several_clips_an_example_stay_spread(name, mesh):
    batch = noise(BATCH + 4, 2000)
    run = jax.jit(jax.vmap(FEATURES[name]))
    result = run(jax.device_put(batch, NamedSharding(mesh, P("data"))))
    assert not result.sharding.is_fully_replicated
    close(result, run(batch))


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=str)
def test_a_mesh_of_two_axes_a_batch_on_each_device_and_one_that_no_axis_divides(kind):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    mel = jax.vmap(lambda wave: features.mel_spectrogram(wave, RATE, 256, n_mels=16))
    check(mel, noise(BATCH, 2000), NamedSharding(mesh, P("data")))
    for batch, spec in ((16, P(("data", "model"))), (12, P("model")), (12, P()), (5, P())):
        waves = noise(batch, 2000)
        close(jax.jit(mel)(jax.device_put(waves, NamedSharding(mesh, spec))), jax.jit(mel)(waves))


def test_a_share_is_computed_without_jit_under_set_mesh_and_under_shard_map(mesh):
    mel = jax.vmap(lambda wave: features.mel_spectrogram(wave, RATE, 256, n_mels=16))
    waves = jax.device_put(noise(BATCH, 2000), NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        inside = jax.jit(mel)(waves)
    mapped = jax.jit(jax.shard_map(mel, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False))
    for result in (mel(waves), inside, mapped(waves)):
        assert result.sharding.spec[0] == "data"
        np.testing.assert_array_equal(result, inside)


@pytest.mark.parametrize("name", ["leaf", "sincnet", "pcen"])
def test_a_learned_frontends_gradient_needs_one_sum_over_the_devices(name, mesh):
    frontend, waves = FRONTENDS[name](), noise(BATCH, 2000)
    arrays, static = eqx.partition(frontend, eqx.is_array)
    weights = noise(*jax.eval_shape(jax.vmap(frontend), waves).shape)

    def gradient(arrays, waves, weights):
        return jax.grad(lambda arrays: jnp.mean(jax.vmap(eqx.combine(arrays, static))(waves) * weights))(arrays)

    expected = jax.jit(gradient)(arrays, waves, weights)
    spread = jax.device_put((waves, weights), NamedSharding(mesh, P("data")))
    result, collectives = compiled(gradient, jax.device_put(arrays, NamedSharding(mesh, P())), *spread)
    assert collectives == {"all-reduce"}
    for one, other in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        close(one, other, 1e-5)


def test_the_derivative_by_the_samples_is_that_of_one_device(mesh):
    slope = jax.jit(jax.vmap(jax.grad(lambda wave: jnp.sum(features.mel_spectrogram(wave, RATE, 256, n_mels=16)))))
    waves = noise(BATCH, 2000)
    result = slope(jax.device_put(waves, NamedSharding(mesh, P("data"))))
    close(result, slope(waves))
