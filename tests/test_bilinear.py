"""Bilinear maps that know their batch: each of JAX's transformations gives what it gives of JAX's own operations."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from audax_eqx.layers import Conv
from audax_eqx.layers.bilinear import bilinear

KEY = jax.random.key(0)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def error(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()


seen = []  # the shapes that the gradient of the weight was asked for


def weight_gradient(x, gradient, shape, options):
    seen.append(x.shape)
    return options * (x.reshape(-1, shape[0]).T @ gradient.reshape(-1, shape[1]))


scaled = bilinear("scaled_product", lambda x, weight, scale: scale * (x @ weight), weight_gradient=weight_gradient)
ours = functools.partial(scaled, options=3.0)
BATCH, X, WEIGHT = noise(5, 4, 3), noise(4, 3, seed=1), noise(3, 2, seed=2)
WEIGHTS = noise(5, 3, 2, seed=3)


def plain(x, weight):
    return 3.0 * (x @ weight)


def loss(road, x, weight):
    return jnp.sum(jnp.sin(road(x, weight)))


def batched(road, weight):
    return loss(jax.vmap(road, (0, None)), BATCH, weight)


TRANSFORMED = {
    "value": lambda road: road(X, WEIGHT),
    "both gradients": lambda road: jax.grad(loss, (1, 2))(road, X, WEIGHT),
    "gradient of a batch": lambda road: jax.grad(batched, 1)(road, WEIGHT),
    "of a batch of batches": lambda road: jax.grad(
        lambda w: jnp.sum(jnp.sin(jax.vmap(jax.vmap(road, (0, None)), (0, None))(noise(2, 5, 4, 3), w)))
    )(WEIGHT),
    "batch of gradients": lambda road: jax.vmap(lambda x: jax.grad(loss, 2)(road, x, WEIGHT))(BATCH),
    "a batch along another axis": lambda road: jax.vmap(road, (1, None), 1)(BATCH.swapaxes(0, 1), WEIGHT),
    "a weight for each example": lambda road: jax.grad(lambda w: jnp.sum(jnp.sin(jax.vmap(road)(BATCH, w))))(WEIGHTS),
    "weights for one example": lambda road: jax.vmap(road, (None, 0))(X, WEIGHTS),
    "forward mode": lambda road: jax.jvp(lambda w: batched(road, w), (WEIGHT,), (jnp.ones((3, 2)),)),
    "second derivatives": lambda road: jax.hessian(loss, 2)(road, X, WEIGHT),
    "gradient of a gradient": lambda road: jax.grad(lambda w: jnp.sum(jax.grad(batched, 1)(road, w) ** 2))(WEIGHT),
    "rematerialised": lambda road: jax.grad(batched, 1)(jax.checkpoint(road), WEIGHT),
    "in a loop": lambda road: jax.grad(lambda w: loss(lambda x, w: jax.lax.map(lambda x: road(x, w), x), BATCH, w))(
        WEIGHT
    ),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_every_transformation_gives_what_it_gives_of_a_product(name, compiled):
    def run(road):
        work = functools.partial(TRANSFORMED[name], road)
        return jax.tree.leaves((jax.jit(work) if compiled else work)())

    for own, other in zip(run(ours), run(plain), strict=True):
        assert error(own, other) < 1e-5


def test_the_gradient_of_a_shared_weight_is_asked_for_once_with_the_whole_batch():
    seen.clear()
    jax.make_jaxpr(jax.grad(batched, 1), static_argnums=0)(ours, WEIGHT)
    assert set(seen) <= {BATCH.shape}  # empty where this was traced before
    jax.clear_caches()
    jax.make_jaxpr(jax.grad(batched, 1), static_argnums=0)(ours, WEIGHT)
    assert seen[-1] == BATCH.shape


@pytest.mark.parametrize("check_vma", [True, False])
def test_in_shard_map_the_gradient_of_a_shared_weight_is_the_sum_over_devices(check_vma):
    batch, mesh = noise(8, 4, 3), jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def share(weight, x):
        gradient = jax.grad(lambda weight: loss(jax.vmap(ours, (0, None)), x, weight))(weight)
        return gradient if check_vma else jax.lax.psum(gradient, "data")

    specs = {"in_specs": (P(), P("data")), "out_specs": P(), "check_vma": check_vma}
    gradient = jax.jit(jax.shard_map(share, mesh=mesh, **specs))(WEIGHT, batch)
    assert error(gradient, jax.grad(loss, 2)(jax.vmap(plain, (0, None)), batch, WEIGHT)) < 1e-5


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_batch_on_several_devices_has_the_gradient_of_one_device(kind):
    batch, mesh = noise(8, 4, 3), jax.make_mesh((4,), ("data",), axis_types=(kind,))
    expected = jax.grad(loss, 2)(jax.vmap(plain, (0, None)), batch, WEIGHT)
    with jax.set_mesh(mesh):
        spread = jax.device_put(batch, NamedSharding(mesh, P("data")))
        weight = jax.device_put(WEIGHT, NamedSharding(mesh, P()))
        gradient = jax.jit(jax.grad(lambda w, x: loss(jax.vmap(ours, (0, None)), x, w)))(weight, spread)
    assert error(gradient, expected) < 1e-5


SIZES = [  # more and fewer positions than channels
    ((9, 7), 2, (3, 3), (1, 1)),
    ((4, 3), 20, (3, 3), (1, 1)),
    ((12, 9), 1, (7, 7), (2, 2)),
    ((5, 6), 40, (3, 1), (2, 1)),
]


@pytest.mark.parametrize("padding", ["symmetric", "same", "valid"])
@pytest.mark.parametrize(("size", "inputs", "kernel", "stride"), SIZES)
def test_a_convolution_has_the_gradients_of_jax_s_own(size, inputs, kernel, stride, padding):
    layer = Conv(inputs, 4, kernel, stride=stride, padding=padding, bias=False, key=KEY)
    batch = noise(3, *size, inputs)
    around = {"symmetric": [(each // 2, each // 2) for each in kernel], "same": "SAME", "valid": "VALID"}[padding]

    def ours(weight, x):
        return jax.vmap(eqx.tree_at(lambda layer: layer.weight, layer, weight))(x)

    def theirs(weight, x):
        return jax.lax.conv_general_dilated(x, weight, stride, around, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def gradients(road):
        return jax.jit(jax.grad(lambda weight, x: jnp.sum(jnp.sin(road(weight, x))), (0, 1)))(layer.weight, batch)

    for own, other in zip(gradients(ours), gradients(theirs), strict=True):
        assert error(own, other) < 1e-5


@pytest.mark.parametrize("channels", [2, 40])  # more and fewer positions than channels
def test_the_gradient_of_a_convolution_s_weight_adds_up_in_float32(channels):
    layer, x = Conv(channels, 3, (3, 3), bias=False, key=KEY), noise(16, 6, 5, channels)
    probe = noise(16, 6, 5, 3, seed=1)

    def gradient(dtype):
        cast = functools.partial(jnp.asarray, dtype=dtype)
        road = jax.vmap(lambda w, x: eqx.tree_at(lambda layer: layer.weight, layer, w)(x), (None, 0))
        return jax.vjp(lambda w: road(w, cast(x)), cast(layer.weight))[1](cast(probe))[0]

    half, single = gradient(jnp.bfloat16), gradient(jnp.float32)
    assert half.dtype == jnp.bfloat16
    assert error(half.astype(jnp.float32), single) < 1e-2
