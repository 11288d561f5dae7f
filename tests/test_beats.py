"""BEATs against its authors' numbers, closed forms, and padding that has no part in a result."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.seeded import fill

from audax_eqx import networks
from audax_eqx.frontends import KaldiFbank
from audax_eqx.models import Classifier, Encoder
from audax_eqx.networks import BEATs, Wav2Vec2

PARAMETERS = {"beats_base": 90_311_792}  # of the authors' model, its table of distances counted once
KEY = jax.random.key(0)
SMALL = {"patch": 4, "embedding": 12, "kernel": 8, "groups": 2, "buckets": 8, "max_distance": 20}


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@functools.cache
def seeded(make=Encoder, depth=2, **options):
    frontend = KaldiFbank(8000, 10, window="povey", mean=15.0, scale=13.0, gain=2.0**15)

    def build(key):
        more = {"classes": 3} if make is Classifier else {}
        return make(frontend, BEATs(8, depth, 2, **SMALL | options, key=key), **more, key=key)

    model, state = fill(build)
    return eqx.nn.inference_mode(model), state


@eqx.filter_jit
def maps(network, x):
    """The network's layers and feature map."""
    state = eqx.nn.State(network)
    return network.layers(x, state)[0], network.features(x, state)[0]


@eqx.filter_jit
def outputs(model, state, wave, length=None):
    """Everything that a model makes of a wave: features, layers, feature map, embedding and output."""
    x, known = model.listen(wave, length=length), model.valid(wave.size, length)
    layers, _ = model.network.layers(x, state, **known)
    last, _ = model.network.features(x, state, **known)
    return x, layers, last, model.network.pool_map(last, **known), model(wave, state, length=length)[0]


# The network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_numbers_of_parameters(name):
    leaves = jax.tree.leaves(eqx.filter_eval_shape(getattr(networks, name), key=KEY))
    assert sum(leaf.size for leaf in leaves if hasattr(leaf, "size")) == PARAMETERS[name]


def test_patches_are_in_a_row_time_after_time():
    network = seeded(depth=0)[0].network
    x = noise(11, 10)
    _, y = maps(network, x)
    assert y.shape == (2, 2, 8)  # 3 frames and 2 bins are left over
    patches = np.stack([x[t : t + 4, f : f + 4].ravel() for t in (0, 4) for f in (0, 4)])
    tokens = patches @ network.patchify.weight.reshape(16, 12)
    assert error(y.reshape(4, 8), maps(network.encoder, tokens)[1][:, 0]) < 1e-6
    np.testing.assert_allclose(network.positions(2), [1.5, 5.5])


@pytest.mark.parametrize("norm_first", [False, True])
def test_what_goes_past_the_branches_of_a_deep_network_is_scaled(norm_first):
    network = seeded(depth=3, norm_first=norm_first, deep_norm=not norm_first)[0].network
    silent = eqx.tree_at(
        lambda network: [
            leaf
            for block in network.blocks
            for linear in (block.attention.output, block.contract)
            for leaf in (linear.weight, linear.bias)
        ],
        network,
        replace_fn=jnp.zeros_like,
    )
    (expected, second, *_), _ = maps(silent, noise(8, 10))
    if not norm_first:
        block = silent.blocks[0]
        for norm in (block.attention_norm, block.mlp_norm):
            expected = norm(6**0.25 * expected)
    assert error(second, expected) < 1e-6


def test_gates_are_made_of_the_query():
    def made(gate):
        return fill(functools.partial(Wav2Vec2, 8, 1, 2, bins=8, kernel=8, groups=2, buckets=8, gate=gate))[0]

    def differ(one, other):
        return error(*(maps(network, x)[1] for network in (one, other))) > 1e-5

    x = noise(6, 8)
    of_input, of_query, ungated = map(made, ("input", "query", None))
    assert differ(of_query, of_input) and differ(ungated, of_input) and differ(ungated, of_query)
    at = lambda network: [network.blocks[0].attention.query.weight, network.blocks[0].attention.query.bias]  # noqa: E731
    same = [jnp.eye(8), jnp.zeros(8)]
    assert not differ(*(eqx.tree_at(at, network, same) for network in (of_input, of_query)))


@pytest.mark.parametrize(
    "options, part",
    [
        ({"patch": 0}, "sizes of at least 1, got patch=0"),
        ({"embedding": 0}, "sizes of at least 1"),
        ({"norm_first": True}, "deep_norm with norms that come last"),
        ({"groups": 3}, "groups that divide its 8 channels"),
        ({"buckets": 3}, "4 buckets on"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(options, part):
    with pytest.raises(ValueError, match=part):
        BEATs(8, 1, 2, **SMALL | options, key=KEY)
    with pytest.raises(ValueError, match="project=False with as many bins as its width"):
        Wav2Vec2(8, 1, 2, bins=4, project=False, key=KEY)


# Padding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make, options", [(Encoder, {"patch_bias": True}), (Classifier, {"embedding": 8})])
@pytest.mark.parametrize("samples", [200, 500, 3333])  # a frame, less than a patch; 4 frames, a patch; 40
def test_padding_has_no_part_in_a_result(make, options, samples):
    model, state = seeded(make, **options)
    assert model.takes_length
    whole = noise(6000, seed=1) * jnp.where(jnp.arange(6000) < samples, 0.1, 100.0)  # loud in the padding
    alone, padded = outputs(model, state, whole[:samples]), outputs(model, state, whole, jnp.asarray(samples))
    for ours, theirs in zip(*map(jax.tree.leaves, (padded, alone)), strict=True):
        assert error(ours[: len(theirs)], theirs) < 1e-5
    assert error(outputs(model, state, whole, jnp.asarray(6000))[4], alone[4]) > 1e-3


def test_steps_are_as_many_as_whole_patches():
    model, state = seeded()
    network = model.network
    for frames in (1, 3, 4, 7, 8, 33):
        steps = eqx.filter_eval_shape(network.features, jnp.zeros((frames, 10)), state)[0].shape[0]
        assert network.steps(frames) == steps == int(eqx.filter_jit(network.steps)(jnp.asarray(frames)))


def test_a_classifiers_logits_are_the_mean_of_its_tokens_logits():
    model, state = seeded(Classifier, embedding=8)
    _, _, last, _, logits = outputs(model, state, noise(3000))
    assert error(logits, np.asarray(last).reshape(-1, 8).mean(axis=0) @ model.head.weight.T + model.head.bias) < 1e-5
    assert error(logits, np.asarray(model.head(last)).mean(axis=(0, 1))) < 1e-5
