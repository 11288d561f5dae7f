"""Padded clips: the features that a frontend makes of them, and the number of frames that are no padding."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..abstract import AbstractFrontend, AbstractNetwork
from ..layers import Length


def takes_length(frontend: AbstractFrontend, network: AbstractNetwork) -> bool:
    """Whether frontend and network ignore padding, or the frontend replaces it by something that the network reads."""
    return frontend.takes_length and (frontend.fills or network.takes_length)


def hear(frontend: Any, wave: Float[Array, " samples"], length: Length) -> Float[Array, "frames bins"]:
    """The features of a wave, of which only the first `length` samples are valid.

    Raises ValueError for a length if the frontend accepts none.
    """
    if length is None:
        return frontend(wave)
    if not frontend.takes_length:
        raise ValueError(
            f"{type(frontend).__name__} takes no length, because its result depends on the padding: give each clip "
            "without padding."
        )
    return frontend(wave, length=length)


def valid(frontend: Any, network: AbstractNetwork, samples: int, length: Length = None) -> dict[str, Array]:
    """The keyword `length` of the network, in frames, for a wave of `samples`, of which the first `length` are valid.

    The result is empty if every frame is valid: without a length, unless the frontend pads the clip, and if the network
    is meant to read the frontend's filling. Raises ValueError for a length if the network accepts none.
    """
    if not takes_length(frontend, network):
        if length is not None:
            raise ValueError(
                f"{type(network).__name__} behind {type(frontend).__name__} takes no length, because its result "
                "depends on the padding: give each clip without padding."
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
