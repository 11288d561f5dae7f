"""A golden output: the output of the saved weights for a wave. It is compared with their output on other machines."""

import pathlib
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._files import line
from ._pretrained import Pretrained
from ._register import Model
from ._wave import check_process
from ._weights import Arrays

SECONDS = 1.0
LONGEST = 2.0  # seconds; the longest wave that `verify` accepts
BOUND = 1e-4  # the allowed difference, relative to the largest output


def golden(clip: Pretrained) -> dict[str, np.ndarray]:
    """`wave`, seeded noise at the model's sample rate, and `output`, its logits or projection, both in float32."""
    samples = round(min(SECONDS, clip.entry.window) * clip.sample_rate)
    samples = max(samples, clip.model.frontend.min_samples)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)
    return {"wave": wave, "output": computed(clip, wave)}


def difference(arrays: Mapping[str, np.ndarray], clip: Pretrained) -> float:
    """The distance of the golden output from the output of the unrounded weights, max|a-b| / max|b|."""
    exact = computed(clip, arrays["wave"])
    return float(np.abs(arrays["output"] - exact).max() / (np.abs(exact).max() or 1))


def verify(clip: Pretrained, path: pathlib.Path) -> None:
    """Raises ValueError if the model's output differs from the golden file."""
    arrays = Arrays(path)
    kinds = {name: (arrays[name].ndim, arrays[name].dtype) for name in arrays}
    if kinds != dict.fromkeys(("wave", "output"), (1, np.float32)) or not np.isfinite(arrays["wave"]).all():
        raise ValueError(f"{path} does not hold the float32 arrays wave and output: save the model again.")
    wave, reference = arrays["wave"], arrays["output"]
    if not np.isfinite(reference).all():
        raise ValueError(
            f"{clip.entry.name} does not give its golden output because {path} holds NaN or infinite numbers: its "
            "training had diverged before it was saved, so do not use it."
        )
    if len(wave) < clip.model.frontend.min_samples:
        raise ValueError(f"{path} holds a wave of {len(wave)} samples, too short for this model: save the model again.")
    if len(wave) > max(LONGEST * clip.sample_rate, clip.model.frontend.min_samples):
        raise ValueError(
            f"{path} holds a wave of {len(wave)} samples, longer than any that zoo.save writes: save the model again."
        )
    result = computed(clip, wave)
    if result.shape != reference.shape:
        raise ValueError(
            f"{path} holds {reference.size} outputs and the model gives {result.size}: save the model again."
        )
    if not np.isfinite(result).all():
        raise ValueError(
            f"{clip.entry.name} does not give its golden output but NaN or infinite numbers: fetch it again, or do not "
            "trust it."
        )
    error, scale = float(np.abs(result - reference).max()), float(np.abs(reference).max())
    if error > BOUND * scale:
        relative = error / scale if scale else np.inf
        raise ValueError(
            f"{clip.entry.name} does not give its golden output: it differs by {relative:.1e} of the largest number, "
            f"and {BOUND:g} is allowed; fetch it again, or do not trust it."
        )


def computed(clip: Pretrained, wave: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " outputs"]:
    """The model's output for a wave, in the machine's highest precision. Raises ValueError if memory is too small."""
    check_process(clip.entry.name)
    # The default precision of products on accelerators is coarser than the bound
    try:
        with jax.default_matmul_precision("highest"):
            return np.asarray(_output(clip.model, clip.state, jnp.asarray(wave)))
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"{clip.entry.name} cannot be run on {len(wave)} samples on this machine ({line(str(error))}): use one "
            "with more memory, or do not trust the model."
        ) from None


@eqx.filter_jit
def _output(model: Model, state: eqx.nn.State, wave: Array) -> Array:
    return model(wave, state)[0]  # without the entry, whose metrics would compile the program anew as they change
