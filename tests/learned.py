"""What the tests of learned frontends share: waves, gradients, a Flax checkpoint's numbers, and what holds for each."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from arrays import error


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))


LOUD = {"silence": jnp.zeros(400), "noise": noise(400), "square": jnp.sign(noise(400)), "faint": 1e-20 * noise(400)}


def same(samples, kernel, stride):
    """Zeros before and after for "SAME" padding."""
    total = max((math.ceil(samples / stride) - 1) * stride + kernel - samples, 0)
    return total // 2, total - total // 2


def settings(bins):
    """Sample rates, bins, samples and options in milliseconds; the windows that do not touch have so many bins."""
    return [
        (16000, 5, 4000, {}),
        (8000, 2, 4001, {}),
        (22050, 3, 2205, {}),  # 552 samples, an even window
        (44100, 2, 5000, {}),
        (16000, bins, 4000, {"window_ms": 5.0, "stride_ms": 10.0}),  # windows that do not touch
        (16000, 4, 3999, {"window_ms": 19.9375, "stride_ms": 5.0}),  # 320 samples, four whole strides
        (2000, 3, 1, {}),
        (2000, 3, 21, {}),
    ]


@eqx.filter_jit
def run(frontend, wave):
    return frontend(wave)


@eqx.filter_jit
def distance(frontend, wave, aim):
    """Squared distance of the features from an aim, and its gradients by the frontend and the wave."""
    loss = lambda both: jnp.sum((both[0](both[1]) - aim) ** 2)  # noqa: E731
    return eqx.filter_value_and_grad(loss)((frontend, wave))


def audax_parameters(path):
    """The `frontend` of a Flax checkpoint."""
    msgpack = pytest.importorskip("msgpack")

    def array(code, data):
        shape, dtype, values = msgpack.unpackb(data)
        return np.frombuffer(values, dtype).reshape(shape)

    hook = lambda code, data: array(code, data) if code == 1 else data  # noqa: E731
    return msgpack.unpackb(path.read_bytes(), ext_hook=hook, strict_map_key=False)["params"]["frontend"]


def assert_gradients_are(frontend, plain, wave, aim, arrays):
    """The gradients of the distance from an aim are those of `plain`, a function of frontend and wave."""
    ours, theirs = distance(frontend, wave, aim)[1], eqx.filter_jit(eqx.filter_grad(plain))((frontend, wave))
    for our, their in zip((*arrays(ours[0]), ours[1]), (*arrays(theirs[0]), theirs[1]), strict=True):
        assert np.any(their) and error(our, their) < 1e-4


def assert_gradients_are_bounded(frontend, wave, aim):
    value, gradients = distance(frontend, wave, aim)
    assert np.isfinite(value)
    for gradient in jax.tree.leaves(gradients):
        assert np.all(np.abs(gradient) < 1e6)  # which holds for no NaN


def assert_a_batch_is_a_loop(frontend, arrays):
    """The output of a batch is that of its waves, and its gradient by the frontend's `arrays` the sum of theirs."""
    waves, aim = noise(4, 400), noise(20, 3, seed=1)
    batch = lambda frontend: (y := eqx.filter_vmap(frontend)(waves), jnp.sum((y - aim[None]) ** 2))[::-1]  # noqa: E731
    gradients, y = eqx.filter_jit(eqx.filter_grad(batch, has_aux=True))(frontend)
    assert error(y, np.stack([run(frontend, wave) for wave in waves])) < 1e-5
    loop = [arrays(distance(frontend, wave, aim)[1][0]) for wave in waves]
    for ours, theirs in zip(arrays(gradients), zip(*loop, strict=True), strict=True):
        assert error(ours, np.sum(np.asarray(theirs, np.float64), axis=0)) < 1e-5


def assert_any_floats_give_float32(frontend, dtype):
    with jax.enable_x64(True):
        wave = noise(400).astype(dtype)
        y = run(frontend, wave)
    assert y.dtype == jnp.float32 and error(y, run(frontend, wave.astype(jnp.float32))) < 1e-6


def assert_half_precision_computes_in_float32(frontend):
    """Gives the frontend of bfloat16 parameters, and that of the same numbers in float32."""
    half = jax.tree.map(lambda array: array.astype(jnp.bfloat16), frontend)
    wide = jax.tree.map(lambda array: array.astype(jnp.float32), half)
    y = run(half, noise(400))
    assert y.dtype == jnp.float32 and error(y, run(wide, noise(400))) < 1e-6
    return half, wide


def assert_bad_waves_raise(frontend):
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        frontend(jnp.zeros(0))
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[2,200\][\s\S]*'samples'"):
        frontend(noise(2, 200))
    assert frontend.min_samples == 1
