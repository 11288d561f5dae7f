"""The places of a network's steps are the centres of what they see."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.seeded import fill

from audax_eqx.networks import (
    CNN,
    EfficientNet,
    MobileNetV2,
    MobileNetV3,
    PANNsResNet,
    ResNet,
    WeSpeaker,
)

SEVEN = ((1, 1, 1, 1, 1, 1, 1), (4, 4, 4, 4, 4, 4, 4, 4))


def averaging(build):
    """The network with weights that average, open gates and no normalisation: what a step sees lies evenly around its
    centre."""
    network, state = fill(build)

    def parameter(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not eqx.is_array(leaf):
            return leaf
        if leaf.ndim == 1:
            return jnp.full_like(leaf, 0.0 if name.endswith("bias") else 1.0)
        inputs = np.prod(leaf.shape[:-1]) if leaf.ndim == 4 else leaf.shape[1]
        return jnp.full_like(leaf, 0.0 if "excite" in name else 1 / inputs)

    def is_index(leaf):
        return isinstance(leaf, eqx.nn.StateIndex)

    for path, index in jax.tree.leaves_with_path(network, is_leaf=is_index):
        if is_index(index):
            value = 0.0 if path[-1].name == "running_mean" else 1.0
            state = state.set(index, jnp.full_like(state.get(index), value))
    return eqx.nn.inference_mode(jax.tree_util.tree_map_with_path(parameter, network)), state


CENTRED = {  # a step each 32 frames
    "resnet": functools.partial(ResNet, (1, 1, 1, 1), (2, 2, 2, 2)),
    "efficientnet": functools.partial(EfficientNet, *SEVEN),
    "cnn": functools.partial(CNN, (2, 2, 2, 2, 2, 2), (2, 2, 2, 2, 2, 1)),
    "panns": functools.partial(PANNsResNet, (1, 1, 1, 1), (2, 2, 2, 2)),
    "mobilenet": functools.partial(MobileNetV2, (1,) * 7, (2, 2, 2, 2, 2, 2, 4, 2), embedding=2),
    "wespeaker": functools.partial(WeSpeaker, (1,) * 6, 2, 1, bins=4),
    "mobilenet3": functools.partial(MobileNetV3, (2,) * 7, (2,) * 15),
}
SHIFTED = {f"{name} same": functools.partial(CENTRED[name], padding="same") for name in ("resnet", "efficientnet")}


@pytest.mark.parametrize("name", CENTRED | SHIFTED)
def test_positions_are_the_centres_of_what_a_step_of_each_layer_sees(name):
    frames, centred = 320, name in CENTRED
    network, state = averaging((CENTRED | SHIFTED)[name])
    x = jnp.ones((frames, 4))
    run = eqx.filter_jit(eqx.filter_vmap(lambda network, x: network.layers(x, state)[0], in_axes=(None, 0)))
    layers = run(network, x[None] + jnp.eye(frames, frames + 1).T[:, :, None])
    for layer, maps in enumerate(layers):
        maps = np.asarray(maps, np.float64)
        response = np.abs(maps[:-1] - maps[-1]).sum(axis=(2, 3))  # frame raised x step
        positions = network.positions(response.shape[1], layer)
        np.testing.assert_array_equal(positions, network.positions(response.shape[1], layer - len(layers)))
        steps = np.flatnonzero((positions > 120) & (positions < frames - 140))
        assert len(steps) >= 2
        centres = np.arange(frames) @ response[:, steps] / response[:, steps].sum(axis=0)
        np.testing.assert_allclose(np.diff(centres), positions[1] - positions[0], atol=0.05)
        np.testing.assert_allclose(centres, positions[steps], atol=0.05 if centred else 16)
    assert positions[1] - positions[0] == 32
    np.testing.assert_array_equal(positions, network.positions(len(positions)))
    for frame in range(128, 192) if centred else ():
        distances = np.sort(np.abs(positions - frame))
        if distances[1] - distances[0] > 4:
            assert np.argmax(response[frame]) == np.argmin(np.abs(positions - frame))
