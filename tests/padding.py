"""Padding that has no part in what a model makes of a wave, nor in its gradient."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from arrays import error, noise


@eqx.filter_jit
def outputs(model, state, wave, length=None):
    x, options = model.listen(wave, length=length), model.valid(wave.size, length)
    return x, *model.network.layers(x, state, **options)[0], model(wave, state, length=length)[0]


def assert_padding_has_no_part(model, state, samples):
    """Features, layers and output of so many samples are the same with loud noise behind them."""
    assert model.takes_length
    wave = noise(4000) * jnp.where(jnp.arange(4000) < samples, 0.1, 100.0)  # loud in the padding
    alone, longer = outputs(model, state, wave[:samples]), outputs(model, state, wave, jnp.asarray(samples))
    for ours, theirs in zip(longer, alone, strict=True):
        scale = np.abs(theirs).max() + 1e-3
        np.testing.assert_allclose(ours[: len(theirs)] / scale, theirs / scale, atol=1e-5)
    assert error(outputs(model, state, wave, jnp.asarray(4000))[-1], alone[-1]) > 1e-2


def assert_padding_has_no_gradient(model, state, reach):
    """Of 1500 samples with others behind them, the first `reach` have a gradient, and what is behind has none."""
    slope = eqx.filter_jit(jax.grad(lambda wave: jnp.sum(model(wave, state, length=1500)[0])))(noise(2000))
    assert np.all(np.isfinite(slope)) and np.any(slope[:reach]) and not np.any(slope[1500:])
