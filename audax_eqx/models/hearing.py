"""How a model hears a clip of which a part may be padding: what its frontend gives, and how much of that counts."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..abstract import AbstractFrontend, AbstractNetwork
from ..layers import Length


def takes_length(frontend: AbstractFrontend, network: AbstractNetwork) -> bool:
    """Whether both keep padding out of their results, or the frontend puts something in its place."""
    return frontend.takes_length and (frontend.fills or network.takes_length)


def hear(frontend: Any, wave: Float[Array, " samples"], length: Length) -> Float[Array, "frames bins"]:
    """The features of a wave, of which the first `length` samples count.

    Raises ValueError for a length and a frontend that takes none.
    """
    if length is None:
        return frontend(wave)
    if not frontend.takes_length:
        raise ValueError(
            f"{type(frontend).__name__} takes no length, for what pads a clip has a part in its result: give each clip "
            "without padding."
        )
    return frontend(wave, length=length)


def valid(frontend: Any, network: AbstractNetwork, samples: int, length: Length = None) -> dict[str, Array]:
    """The keyword `length` for the network, in frames, of a wave of `samples`, of which the first `length` count.

    It is empty where every frame counts: without a length, unless the frontend itself pads the clip, and where the
    network hears what that fills it up with. Raises ValueError for a length and a network that takes none.
    """
    if not takes_length(frontend, network):
        if length is not None:
            raise ValueError(
                f"{type(network).__name__} behind {type(frontend).__name__} takes no length, for what pads a clip has "
                "a part in its result: give each clip without padding."
            )
        return {}
    if frontend.fills:
        return {}
    if length is None:
        wave = jax.ShapeDtypeStruct((samples,), jnp.float32)
        if frontend.frames(samples) >= eqx.filter_eval_shape(frontend, wave).shape[0]:
            return {}
        length = samples
    return {"length": jnp.asarray(frontend.frames(length), jnp.int32)}
