"""ResNet against transformers' numbers, in inference and in training; its beginnings and its places."""

import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from arrays import KEY, error, noise
from golden.seeded import fill, uniform

from audax_eqx import networks
from audax_eqx.networks import ResNet

DEPTHS, WIDTHS = (1, 2, 1, 1), (4, 6, 8, 10)


def skeleton(*arguments, **options):
    return eqx.filter_eval_shape(ResNet, *arguments, key=KEY, **options)


# transformers ---------------------------------------------------------------------------------------------------------


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "resnet.npz") as arrays:
        return dict(arrays)


@functools.cache
def seeded(kind):
    return fill(functools.partial(ResNet, DEPTHS, WIDTHS, bottleneck=kind == "bottleneck"))


@eqx.filter_jit
def run(network, state, x):
    return network.features(x, state)[0], network(x, state)[0]


@pytest.mark.parametrize("size", [(101, 64), (70, 33)])
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_resnet_is_transformers(kind, size):
    network, state = seeded(kind)
    x = jnp.asarray(2 * uniform("x", size), jnp.float32)
    features, embedding = run(eqx.nn.inference_mode(network), state, x)
    assert error(features, golden()[f"{kind}/{size[0]}/features"]) < 1e-5
    assert error(embedding, golden()[f"{kind}/{size[0]}/embedding"]) < 1e-5


def statistics(network, state):
    """Running means and variances by name."""
    leaves = jax.tree.leaves_with_path(network, is_leaf=lambda leaf: isinstance(leaf, eqx.nn.StateIndex))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): state.get(leaf)
        for path, leaf in leaves
        if isinstance(leaf, eqx.nn.StateIndex)
    }


def test_resnet_trains_as_transformers_does():
    network, state = seeded("basic")
    x = jnp.asarray(2 * uniform("batch", (4, 1, 64, 40))[:, 0], jnp.float32)
    probe, target = (jnp.asarray(uniform(*pair), jnp.float32) for pair in (("probe", (10, 3)), ("target", (4, 3))))

    @eqx.filter_jit
    def step(network, state):
        def loss(network):
            y, moved = jax.vmap(network, (0, None), (0, None), axis_name="batch")(x, state)
            return 0.5 * jnp.mean(jnp.sum(jnp.square(y @ probe - target), axis=1)), moved

        (value, moved), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(network)
        return value, eqx.apply_updates(network, jax.tree.map(lambda leaf: -0.002 * leaf, gradient)), moved

    losses = []
    for _ in range(20):
        value, network, state = step(network, state)
        losses.append(value)
    assert error(losses, golden()["trained/losses"]) < 1e-4
    moved = statistics(network, state)
    names = {f"trained/{name}" for name in moved}
    assert names == {name for name in golden() if name.startswith("trained/") and "running" in name}
    for name, values in moved.items():
        assert error(values, golden()[f"trained/{name}"]) < 1e-4
    embed = eqx.filter_jit(eqx.filter_vmap(eqx.nn.inference_mode(network), in_axes=(0, None), out_axes=(0, None)))
    assert error(embed(x, state)[0], golden()["trained/embedding"]) < 1e-4


PARAMETERS = {  # torchvision 0.26, resnet200 timm 1.0: three input channels and 1,000 classes
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet200": 64_673_832,
}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_variants_have_the_published_number_of_parameters(name, parameters):
    network, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=KEY)
    ours = sum(leaf.size for leaf in jax.tree.leaves(network) if hasattr(leaf, "shape"))
    colours, head = 2 * 7 * 7 * 64, 1000 * network.width + 1000
    assert ours + colours + head == parameters


# Beginnings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_block_begins_as_the_identity(bottleneck):
    @eqx.filter_jit
    def begin(x):
        network, state = eqx.nn.make_with_state(ResNet)((2, 1), (4, 6), bottleneck=bottleneck, key=KEY)
        blocks = [*network.stages[0], *network.stages[1]]
        run = jax.vmap(blocks[1], (0, None), (0, None), axis_name="batch")
        lasts = [block.norm3 if bottleneck else block.norm2 for block in blocks]
        firsts = [network.norm, *(block.norm1 for block in blocks), blocks[0].norm2 if bottleneck else network.norm]
        return run(x, state)[0], [norm.weight for norm in firsts], [norm.weight for norm in lasts]

    x = jax.nn.relu(noise(2, 5, 4, 16 if bottleneck else 4))
    y, firsts, lasts = begin(x)
    np.testing.assert_array_equal(y, x)
    assert np.all(np.concatenate(firsts) == 1) and not np.any(np.concatenate(lasts))


def test_weights_begin_at_hes_scale():
    network = eqx.filter_jit(ResNet)((1, 1), (64, 128), key=KEY)
    block = network.stages[1][0]
    for weight, fan_out in (
        (network.stem.weight, 49 * 64),
        (block.conv1.weight, 9 * 128),
        (block.conv2.weight, 9 * 128),
        (block.shortcut.conv.weight, 128),
    ):
        np.testing.assert_allclose(np.std(weight), np.sqrt(2 / fan_out), rtol=0.05)
        assert abs(np.mean(weight)) < 5 * np.std(weight) / np.sqrt(weight.size)


def test_shortcuts_are_where_size_or_channels_change():
    def shortcuts(**options):
        network = skeleton((2, 2, 1), (4, 4, 8), **options)
        return [[block.shortcut is not None for block in stage] for stage in network.stages]

    assert shortcuts() == [[False, False], [True, False], [True]]
    assert shortcuts(bottleneck=True) == [[True, False], [True, False], [True]]


def test_a_bottleneck_strides_at_its_second_convolution():
    network = skeleton((1, 1), (4, 8), bottleneck=True)
    assert network.stages[0][0].conv2.stride == (1, 1)
    assert network.stages[1][0].conv2.stride == (2, 2) and network.stages[1][0].shortcut.stride == 2
    assert network.stages[1][0].conv2.weight.shape == (3, 3, 8, 8)
    assert network.stages[1][0].conv3.weight.shape == (32, 8) and network.width == 32


# Places ---------------------------------------------------------------------------------------------------------------


def test_both_paddings_give_sizes_rounded_up():
    for padding in ("symmetric", "same"):
        network, state = eqx.filter_eval_shape(
            eqx.nn.make_with_state(ResNet), (1, 1, 1, 1), (2, 2, 2, 2), padding=padding, key=KEY
        )
        for frames in (1, 2, 3, 32, 33, 64, 65, 1001):
            x = jax.ShapeDtypeStruct((frames, 128), jnp.float32)
            shape = eqx.filter_eval_shape(eqx.nn.inference_mode(network).features, x, state)[0].shape
            assert shape == (-(-frames // 32), 4, 2)


@pytest.mark.parametrize("stages", [1, 3])  # with one stage, it is the pooling alone that pads before a stride
def test_same_padding_differs_where_the_size_is_even(stages):
    x = noise(65, 33)
    for rows, equal in ((65, True), (64, False)):  # 65 -> 33 -> 17 -> 9 -> 5
        maps = []
        for padding in ("symmetric", "same"):
            network, state = fill(functools.partial(ResNet, (1, 1, 1)[:stages], (2, 3, 4)[:stages], padding=padding))
            maps.append(run(eqx.nn.inference_mode(network), state, x[:rows])[0])
        assert (error(*maps) < 1e-6) == equal and (error(*maps) > 0.1) != equal


@pytest.mark.parametrize("bottleneck", [False, True])
def test_padding_is_that_of_every_convolution_but_the_stem(bottleneck):
    network = skeleton((1, 2), (4, 8), bottleneck=bottleneck, padding="same")
    assert network.stem.padding == "symmetric"
    for block in (*network.stages[0], *network.stages[1]):
        assert block.conv2.padding == "same" and (bottleneck or block.conv1.padding == "same")


# Bad inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depths", "widths"), [((1, 1), (4,)), ((1, 0), (4, 8)), ((1,), (0,)), ((), ())])
def test_depths_and_widths_go_in_pairs(depths, widths):
    with pytest.raises(ValueError, match="as many depths as widths, all at least 1, got"):
        skeleton(depths, widths)


def test_padding_is_one_of_two():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"'valid'"):
        skeleton((1,), (4,), padding="valid")
