"""PANNs' ResNet against torch's numbers; its shortcuts, its dropouts and its beginnings."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cnn import KEY, assert_is_golden, count, dropouts, noise

from audax_eqx.networks import PANNsResNet

PARAMETERS = {"resnet22": 63_675_087, "resnet38": 73_783_247}  # the paper's table XII: 64 bins, 527 classes


def skeleton(*arguments, **options):
    return eqx.filter_eval_shape(PANNsResNet, *arguments, key=KEY, **options)


def test_resnet_is_torchs():
    assert_is_golden("resnet", functools.partial(PANNsResNet, (1, 2, 1, 1), (4, 6, 8, 8), input_norm=37))


@pytest.mark.parametrize("name", PARAMETERS)
def test_variants_have_the_published_number_of_parameters(name):
    parameters, network = count(name)
    assert parameters == PARAMETERS[name] and network.width == 2048


def test_a_mean_and_a_shortcut_begin_every_stage_but_the_first():
    network = skeleton((2, 2, 1), (4, 4, 8))
    assert [[block.pool for block in stage] for stage in network.stages] == [[1, 1], [2, 1], [2]]
    shortcuts = [[block.shortcut is not None for block in stage] for stage in network.stages]
    assert shortcuts == [[False, False], [True, False], [True]]


def test_the_embedding_has_the_width_of_the_end_or_its_own():
    assert skeleton((1,), (4,)).embed.weight.shape == (16, 16) and skeleton((1,), (4,)).width == 16
    assert skeleton((1,), (4,), embedding=3).embed.weight.shape == (3, 16)


def test_a_block_begins_as_the_identity():
    @eqx.filter_jit
    def begin(x):
        network, state = eqx.nn.make_with_state(PANNsResNet)((2, 1), (4, 6), key=KEY)
        run = jax.vmap(lambda x: network.stages[0][1](x, state, key=KEY), out_axes=(0, None), axis_name="batch")
        blocks = [*network.stages[0], *network.stages[1]]
        return run(x)[0], [block.norm1.weight for block in blocks], [block.norm2.weight for block in blocks]

    x = jax.nn.relu(noise(2, 5, 4, 4))
    y, firsts, lasts = begin(x)
    np.testing.assert_array_equal(y, x)
    assert np.all(np.concatenate(firsts) == 1) and not np.any(np.concatenate(lasts))


def test_weights_begin_at_hes_scale():
    network = eqx.filter_jit(PANNsResNet)((1, 1), (48, 96), key=KEY)
    block = network.stages[1][0]
    for layer, fan_out in (
        (network.stem.conv2, 9 * 48),
        (block.conv1, 9 * 96),
        (block.conv2, 9 * 96),
        (block.shortcut.conv, 96),
        (network.end.conv1, 9 * 384),
        (network.embed, 384),
    ):
        np.testing.assert_allclose(np.std(layer.weight), np.sqrt(2 / fan_out), rtol=0.1)


def test_dropouts_are_where_the_paper_has_them(monkeypatch):
    stem, block, end = (0.2, (16, 4, 2)), (0.1, (16, 4, 2)), [(0.2, (4, 1, 3)), (0.2, (4, 1, 12)), (0.5, (12,))]
    seen = dropouts(monkeypatch, functools.partial(PANNsResNet, (2, 1), (2, 3)), 33, 8)
    assert seen == [stem, block, block, (0.1, (8, 2, 3)), *end]
    options = {"dropout": 0.3, "block_dropout": 0.0, "embedding_dropout": 0.4}
    seen = dropouts(monkeypatch, functools.partial(PANNsResNet, (1,), (2,), **options), 33, 8)
    assert [rate for rate, _ in seen] == [0.3, 0.0, 0.3, 0.3, 0.4]


@pytest.mark.parametrize("frames", [1, 2, 3, 31, 32, 33, 63, 1001])
def test_frames_left_over_are_cut_off(frames):
    build = functools.partial(PANNsResNet, (1, 1, 1, 1), (2, 2, 2, 2))
    network, state = eqx.filter_eval_shape(eqx.nn.make_with_state(build), key=KEY)
    x = jax.ShapeDtypeStruct((frames, 64), jnp.float32)
    shape = eqx.filter_eval_shape(eqx.nn.inference_mode(network).features, x, state)[0].shape
    assert shape == (max(frames // 32, 1), 2, 8)


@pytest.mark.parametrize(("depths", "widths"), [((1, 1), (4,)), ((1, 0), (4, 8)), ((1,), (0,)), ((), ())])
def test_depths_and_widths_go_in_pairs(depths, widths):
    with pytest.raises(ValueError, match="as many depths as widths, all at least 1, got"):
        skeleton(depths, widths)
