"""Per-channel energy normalisation, learned (Wang et al., 2017, arXiv:1607.05666; Lostanlen et al., 2019).

    y = (x / (floor + M)^alpha + delta)^(1/root) - delta^(1/root),    M_t = (1 - smooth) M_{t-1} + smooth x_t

`alpha` is the strength of the automatic gain control, `delta` and `root` compress the result, and `smooth` sets how
fast the gain adapts. With a `smooth` for each channel this is the sPCEN of LEAF (arXiv:2101.08596).
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import features
from .initial import full


def bounded(x: Float[Array, "*shape"], low: float, high: float) -> Float[Array, "*shape"]:
    """`x` clipped to [low, high], with a projected gradient: a parameter on or past a bound can come back.

    The gradient is unchanged, except that it is 0 if a descent step would move the parameter out of bounds, or further
    out. The gradient of a plain clip is 0 out of bounds, so a parameter that once left the bounds would never return.
    Reverse mode only.
    """
    return _bounded(x, low, high)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _bounded(x: Array, low: float, high: float) -> Array:
    return jnp.clip(x, low, high)


def _forward(x: Array, low: float, high: float) -> tuple[Array, Array]:
    return jnp.clip(x, low, high), x


def _backward(low: float, high: float, x: Array, gradient: Array) -> tuple[Array]:
    outwards = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
    return (jnp.where(outwards, jnp.zeros_like(gradient), gradient),)


_bounded.defvjp(_forward, _backward)


class EnergyNorm(eqx.Module):
    """`features.pcen` with learned parameters for each channel; energies `frames channels` in, float32 out.

    The arguments are the initial values of all channels; the defaults are those of Wang et al. `bounded` keeps them in
    bounds: alpha <= 1, delta >= 1e-3 (at 0 the gradient has a pole), root >= 1, 0 <= smooth <= 1. `floor` is fixed.
    Raises ValueError for an initial value out of bounds.
    """

    alpha: Float[Array, " channels"]
    delta: Float[Array, " channels"]
    root: Float[Array, " channels"]
    smooth: Float[Array, " channels"]
    channels: int = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        alpha: float = 0.98,
        delta: float = 2.0,
        root: float = 2.0,
        smooth: float = 0.025,
        floor: float = 1e-6,
    ):
        start = {"alpha": alpha, "delta": delta, "root": root, "smooth": smooth}
        for name, (low, high) in _BOUNDS.items():
            if not low <= start[name] <= high:
                raise ValueError(
                    f"EnergyNorm keeps {name} in [{low}, {high}], got {start[name]}: start it inside of these bounds."
                )
        self.alpha, self.delta, self.root, self.smooth = (
            full(channels, value) for value in (alpha, delta, root, smooth)
        )
        self.channels, self.floor = channels, floor

    def __call__(self, x: Float[Array, "*leading frames {self.channels}"]) -> Float[Array, "*leading frames channels"]:
        parameters = {
            name: bounded(getattr(self, name).astype(jnp.float32), *bounds) for name, bounds in _BOUNDS.items()
        }
        return features.pcen(x.astype(jnp.float32), **parameters, floor=self.floor)


_BOUNDS = {
    "alpha": (-float("inf"), 1.0),
    "delta": (1e-3, float("inf")),
    "root": (1.0, float("inf")),
    "smooth": (0.0, 1.0),
}
