"""What the abstract networks and models supply: maps, the call, and padding that changes no result."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audax_eqx import AbstractModel, AbstractNetwork
from audax_eqx.frontends import Wav2Vec
from audax_eqx.models import COLA, SimCLR
from audax_eqx.networks import ResNet, Wav2Vec2

KEY = jax.random.key(0)
STATE = eqx.nn.State({})


class Positions(AbstractNetwork):
    width: int = 2

    def positions(self, time, layer=-1):
        return np.arange(time, dtype=np.float64)


class Pooled(Positions):
    """A network that says no more than it must."""

    def features(self, x, state, *, key=None):
        return x[:, None], state

    def pool_map(self, y):
        return jnp.max(y, axis=(0, 1))


class Heard(AbstractModel):
    """A model that adds nothing but a call."""

    frontend: Wav2Vec
    network: AbstractNetwork

    def __call__(self, wave, state, *, length=None, key=None):
        return self.embed(wave, state, length=length, key=key)


def test_a_network_of_features_and_a_pool_has_layers_and_a_call():
    x = jnp.arange(6.0).reshape(3, 2)
    embedding, _ = Pooled()(x, STATE)
    np.testing.assert_array_equal(embedding, [4, 5])
    np.testing.assert_array_equal(Pooled().layers(x, STATE)[0][0], x[:, None])


def test_a_network_without_maps_or_embedding_is_refused():
    with pytest.raises(TypeError, match="neither `features` nor `layers`: a network defines one of them"):
        Positions()

    class Unpooled(Positions):
        def features(self, x, state, *, key=None):
            return x[:, None], state

    with pytest.raises(TypeError, match="Unpooled has neither `pool_map` nor `__call__`"):
        Unpooled()


def test_a_network_without_length_refuses_one():
    with pytest.raises(TypeError, match="length"):
        Pooled()(jnp.ones((3, 2)), STATE, length=2)


def speech(model=None, **options):
    """A small encoder of speech in a model, with its State."""
    sizes = {"widths": (8, 8, 8), "kernels": (10, 3, 3), "strides": (10, 4, 4), "norm": "layer"}

    def build():
        frontend = Wav2Vec(16000, **sizes, key=KEY)
        network = Wav2Vec2(8, 1, 2, bins=8, kernel=4, groups=2, key=KEY)
        return Heard(frontend, network) if model is None else model(frontend, network, 4, key=KEY, **options)

    return eqx.nn.make_with_state(build)()


def clip(samples):
    return jnp.asarray(np.random.default_rng(samples).standard_normal(samples), jnp.float32)


@pytest.mark.parametrize("kind", [None, COLA, SimCLR])
def test_padding_behind_the_length_changes_nothing(kind):
    model, state = speech(kind)
    wave = clip(4000)
    padded = jnp.concatenate([wave, 10 * clip(2000)])
    assert model.takes_length
    for function in (model, model.embed):
        alone, _ = eqx.filter_jit(function)(wave, state)
        beside, _ = eqx.filter_jit(function)(padded, state, length=jnp.int32(4000))
        np.testing.assert_allclose(beside, alone, rtol=1e-4, atol=1e-5)


def test_models_of_networks_that_hear_padding_refuse_a_length():
    build = lambda: COLA(  # noqa: E731
        Wav2Vec(16000, widths=(8,), kernels=(10,), strides=(10,), key=KEY), ResNet((1,), (4,), key=KEY), 4, key=KEY
    )
    model, state = eqx.nn.make_with_state(build)()
    assert not model.takes_length and model.valid(4000) == {}
    with pytest.raises(ValueError, match="takes no length, because its result depends on the padding"):
        model(clip(4000), state, length=3000)
