"""A pretrained model as the zoo hands it out: weights, State and entry in one PyTree, in inference mode."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from audax_eqx.layers import Linear
from audax_eqx.models import Classifier

from ._entry import Entry, Model


class Pretrained(eqx.Module):
    """A model that eats waveforms, one clip at a time: `Float[Array, " samples"]`, NumPy or JAX, mono, in
    [-1, 1], at `sample_rate` Hz and of any length from one frame on. `zoo.read` gives such a wave.

    Every method that takes a wave takes `sample_rate=` too, and raises ValueError when it differs from the model's.
    They raise TypeError or ValueError, with the remedy, for anything but one clip of finite floating-point samples.
    A model whose frontend takes so many frames, as AST's does, hears the beginning of a longer wave, and warns.
    They compile once for each length; a batch is the user's map: `eqx.filter_jit(eqx.filter_vmap(clip.embed))(waves)`.
    """

    model: Model
    state: eqx.nn.State
    entry: Entry = eqx.field(static=True)

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.entry.sample_rate

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.entry.labels or tuple(f"class {index}" for index in range(self.entry.classes))

    def __call__(self, wave: Any, *, sample_rate: int | None = None) -> Float[Array, " outputs"]:
        """Logits, one a class; of a contrastive model the projection that it compares clips by."""
        return _output(self, self._checked(wave, sample_rate))

    def probabilities(self, wave: Any, *, sample_rate: int | None = None) -> Float[Array, " classes"]:
        """Softmax of the logits for a multiclass model; for a multilabel one a sigmoid of each.

        Raises ValueError for a contrastive model, which knows no classes.
        """
        if self.entry.task == "contrastive":
            raise ValueError(
                f"{self.entry.name} was trained without labels and names no sounds: use embed(wave), or "
                "train a classifier on it, thaw(classes=..., key=...)."
            )
        logits = self(wave, sample_rate=sample_rate)
        return jax.nn.softmax(logits) if self.entry.task == "multiclass" else jax.nn.sigmoid(logits)

    def top(self, wave: Any, k: int = 5, *, sample_rate: int | None = None) -> list[tuple[str, float]]:
        """The `k` most probable labels, most probable first."""
        return rank(np.asarray(self.probabilities(wave, sample_rate=sample_rate)), self.labels, k)

    def embed(self, wave: Any, *, sample_rate: int | None = None) -> Float[Array, " width"]:
        """The clip's embedding: what the network makes of it."""
        return _embedding(self, self._checked(wave, sample_rate))

    def frames(self, wave: Any, *, sample_rate: int | None = None) -> Float[Array, "frames width"]:
        """Embeddings over time: the network's last feature map, averaged over frequency."""
        return _frames(self, self._checked(wave, sample_rate))

    def frame_times(self, frames: int) -> Float[np.ndarray, " frames"]:
        """Seconds from the start of the wave to the centres of the first `frames` rows of `frames(wave)`."""
        return self.model.frontend.times(self.model.network.positions(frames))

    def thaw(self, classes: int | None = None, *, key: PRNGKeyArray) -> tuple[Model, eqx.nn.State]:
        """A copy to fine-tune: the model in training mode and its own State, with a fresh head of `classes`.

        Without `classes` it keeps the head; a contrastive model stays one, and with `classes` becomes a `Classifier`.
        It trains under `jax.vmap(..., axis_name="batch")`.
        """
        model, state = jax.tree.map(
            lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, (self.model, self.state)
        )
        if classes is not None and isinstance(model, Classifier):
            model = eqx.tree_at(lambda tree: tree.head, model, Linear(model.network.width, classes, key=key))
        elif classes is not None:
            model = Classifier(model.frontend, model.network, classes, key=key)
        return eqx.nn.inference_mode(model, value=False), state

    def _checked(self, wave: Any, sample_rate: int | None) -> Float[Array, " samples"]:
        rate, name = self.sample_rate, self.entry.name
        if sample_rate is not None and sample_rate != rate:
            raise ValueError(
                f"{name} takes waves at {rate} Hz, got sample_rate={sample_rate}: read the file by "
                f"zoo.read(path, {rate}), or use audax_eqx.features.resample(wave, {sample_rate}, {rate})."
            )
        if not isinstance(wave, jax.Array | np.ndarray):
            raise TypeError(
                f"{name} takes one clip as a NumPy or JAX array of samples, got a {type(wave).__name__}: "
                f"zoo.read(path, {rate}) reads a file."
            )
        if wave.ndim != 1:
            raise ValueError(
                f"{name} takes one mono clip of shape (samples,), got {wave.shape}: average the channels of a stereo "
                "clip, or map over a batch by eqx.filter_vmap(clip.embed)(waves)."
            )
        if not jnp.issubdtype(wave.dtype, jnp.floating):
            raise TypeError(
                f"{name} takes floating-point samples in [-1, 1], got {wave.dtype}: convert them first, "
                "int16 by wave.astype(np.float32) / 32768."
            )
        least = self.model.frontend.min_samples
        if wave.size < least:
            raise ValueError(
                f"{name} takes at least one frame, {least} samples ({least / rate:.3f} s at {rate} Hz), got "
                f"{wave.size}: pad the clip with zeros."
            )
        most = getattr(self.model.frontend, "max_samples", None)
        if most is not None and wave.size > most:
            warnings.warn(
                f"{name} hears the first {most / rate:.2f} s of a wave, got {wave.size / rate:.2f} s: cut it first, as "
                f"zoo.windows(path, {rate}, {self.entry.window:g}) does with a file.",
                stacklevel=3,
            )
        if isinstance(wave, Tracer):
            return wave.astype(jnp.float32)
        with np.errstate(over="ignore"):
            wave = np.asarray(wave, np.float32)
        if not (finite := np.isfinite(wave)).all():
            raise ValueError(
                f"{name} takes finite samples, got {np.sum(~finite)} NaN or infinite ones of {wave.size}: "
                "repair the recording, np.nan_to_num(wave) sets them to zero."
            )
        return jnp.asarray(wave)


@eqx.filter_jit
def _output(clip: Pretrained, wave: Array) -> Array:
    return clip.model(wave, clip.state)[0]


@eqx.filter_jit
def _embedding(clip: Pretrained, wave: Array) -> Array:
    return clip.model.embed(wave, clip.state)[0]


@eqx.filter_jit
def _frames(clip: Pretrained, wave: Array) -> Array:
    return jnp.mean(clip.model.network.features(clip.model.listen(wave), clip.state)[0], axis=1)


def rank(probabilities: Float[np.ndarray, " classes"], labels: tuple[str, ...], k: int) -> list[tuple[str, float]]:
    """The `k` most probable labels, most probable first. Raises ValueError for `k` below 1."""
    if k < 1:
        raise ValueError(f"top takes k of at least 1, got {k}.")
    return [(labels[index], float(probabilities[index])) for index in np.argsort(-probabilities, kind="stable")[:k]]
