"""Objectives: functions of a model and a batch that give a loss.

    objective(model, state, batch, keys) -> (loss, state)

An objective is a function, or a callable Equinox module that holds its numbers. It gets one device's share of the
batch, the State of the model as `state`, and in `keys` one random key for each example. A key is drawn from the place
of its example in the global batch, so that the number of devices changes nothing. The loss is the mean over the share;
the step averages loss and gradients over the devices. BatchNorm already spans all devices. A complete objective:

    def objective(model, state, batch, keys):
        logits, state = over_batch(lambda wave, key, state: model(wave, state, key=key))(batch.waves[:, 0], keys, state)
        return optax.softmax_cross_entropy(logits, batch.targets).mean(), state

The attribute `task` of an objective, as in `objective.task = "multilabel"`, says how the model is evaluated and saved;
without it the task is "multiclass". A "contrastive" objective gets two crops of each clip. Waves are in [-1, 1], as the
file has them, in pretraining, fine-tuning, evaluation and the zoo alike.
"""

import copy
import math
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from audax_eqx import AbstractModel, augment
from audax_eqx.layers import Cosine
from audax_eqx.models import COLA, Classifier, SimCLR

from .numbers import adjusts

DEVICES = "data"  # the mesh axis over devices and hosts; the batch of one device is the vmapped axis "batch"


class Examples(NamedTuple):
    """One device's share of the batch; waves are float32 between -1 and 1, with zeros as padding at the end."""

    waves: Float[Array, "batch views samples"]
    lengths: Int[Array, "batch views"]
    """The number of valid samples, which the padding follows."""
    targets: Float[Array, "batch classes"]
    """1 for each label of the example."""


def over_batch(function: Callable) -> Callable:
    """Maps `function(*example, state) -> (output, state)` over the first axis of all arguments but `state`."""

    def mapped(*arguments):
        axes = (*(0 for _ in arguments[:-1]), None)
        return jax.vmap(function, in_axes=axes, out_axes=(0, None), axis_name="batch")(*arguments)

    return mapped


class Augment(eqx.Module):
    """Random changes of each example, of its wave first and of its features then; 0 switches a change off."""

    shift: bool = False
    """Rolls the crop to a random start."""
    gain: float = 0.0
    """The most decibels by which the wave gets louder or quieter."""
    noise: float = 0.0
    """The lowest signal-to-noise ratio of white noise, in decibels; the highest is 30 dB more."""
    resize: float = 1.0
    """The largest factor by which features are stretched or shrunk along time and frequency; 1 for none."""
    frames: int = 0
    """The largest mask of SpecAugment over time, in frames."""
    bins: int = 0
    """The largest mask of SpecAugment over frequency, in bins."""
    masks: int = 2
    """The number of masks over time, and of masks over frequency."""

    def __check_init__(self):
        if not 1 <= self.resize < math.inf or min(self.gain, self.noise, self.frames, self.bins, self.masks) < 0:
            raise ValueError(f"Augmentation takes a resize of at least 1 and no negative numbers, got {self}.")

    @property
    def moves(self) -> bool:
        """Whether padding may end up anywhere, because the wave is rolled or its features are resized."""
        return self.shift or adjusts(self.resize, neutral=1)

    def wave(
        self, wave: Float[Array, " samples"], length: Int[Array, ""], *, key: PRNGKeyArray
    ) -> Float[Array, " samples"]:
        gain_key, noise_key, shift_key = jax.random.split(key, 3)
        if adjusts(self.gain):
            wave = augment.gain(wave, low=-self.gain, high=self.gain, key=gain_key)
        if adjusts(self.noise):
            wave = augment.add_noise(wave, low=self.noise, high=self.noise + 30, length=length, key=noise_key)
        return augment.random_shift(wave, key=shift_key) if self.shift else wave

    def features(
        self, x: Float[Array, "frames bins"], share: Float[Array, ""], *, mask: bool | Array = True, key: PRNGKeyArray
    ) -> Float[Array, "frames bins"]:
        """The features resized, and masked if `mask` is true; `share` is the share of frames that are valid."""
        resize_key, mask_key = jax.random.split(key)
        if adjusts(self.resize, neutral=1):
            x = augment.random_resize(x, time=self.resize, freq=self.resize, key=resize_key)
        if not (self.frames or self.bins):
            return x
        length = None if self.moves else jnp.ceil(share * len(x)).astype(jnp.int32)
        masked = augment.spec_augment(
            x, time=self.frames, freq=self.bins, masks=self.masks, length=length, key=mask_key
        )
        return jnp.where(mask, masked, x)


class Supervised(eqx.Module):
    """Cross-entropy against the labels, averaged over the batch, and in the multilabel case over the classes too.

    Mixup (Zhang et al., 2018, arXiv:1710.09412) mixes the waves of the examples 2i and 2i + 1. The shuffling of the
    data makes new pairs in each epoch, so that devices need not exchange examples.
    """

    task: Literal["multiclass", "multilabel"] = "multiclass"
    """A softmax over the classes, or a sigmoid for each class."""
    label_smoothing: float = 0.0
    """The share of the target that is spread over the classes; with sigmoids, the share that is moved to one half."""
    mixup: float = 0.0
    """Alpha of the Beta distribution from which the shares of the mixture are drawn; 0 for no mixup."""
    augment: Augment = Augment()
    margin: float = 0.0
    """The margin in radians that is added to the angle to the right class (Deng et al., 2019, arXiv:1801.07698); it
    needs a head of cosines; 0 for no margin."""
    class_weights: float = 0.0
    """How much more rare labels count. The weight of a label is its number of clips to the power of minus this number:
    1 is the inverse frequency, 0 gives equal weights. The mean of the weights over the clips is 1. With sigmoids the
    weight applies to the presence of a label."""
    counts: tuple[int, ...] = eqx.field(init=False)  # the number of clips of each label, which `counted` fills in

    def __post_init__(self):
        self.counts = ()

    def __check_init__(self):
        if not (0 <= self.label_smoothing <= 1 and 0 <= self.mixup < math.inf):
            raise ValueError(
                f"Label smoothing is a share and mixup an alpha from 0 on, got {self.label_smoothing} and {self.mixup}."
            )
        if not 0 <= self.class_weights < math.inf:
            raise ValueError(f"class_weights is a power of at least 0, got {self.class_weights}: 1 is the usual one.")
        if not 0 <= self.margin < math.pi / 2 or (self.margin and self.task != "multiclass"):
            raise ValueError(
                f"The margin is an angle from 0 to below pi / 2, for multiclass models alone, got {self.margin} and "
                f"{self.task}."
            )

    def __call__(
        self, model: Classifier, state: eqx.nn.State, batch: Examples, keys: PRNGKeyArray
    ) -> tuple[Float[Array, ""], eqx.nn.State]:
        samples = batch.waves.shape[-1]
        targets = self._smooth(batch.targets)
        shift_keys, mix_keys, keys = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
        waves = jax.vmap(lambda wave, length, key: self.augment.wave(wave, length, key=key))(
            batch.waves[:, 0], batch.lengths[:, 0], shift_keys
        )
        lengths = batch.lengths[:, 0]
        if adjusts(self.mixup):
            if len(waves) % 2:
                raise ValueError(f"Mixup takes pairs, and each device has {len(waves)} examples: give an even number.")
            partner = jnp.arange(len(waves), dtype=jnp.int32) ^ 1
            share = jax.vmap(lambda key: jax.random.beta(key, self.mixup, self.mixup, dtype=jnp.float32))(mix_keys)
            share = share[:, None]
            waves = share * waves + (1 - share) * waves[partner]
            targets = share * targets + (1 - share) * targets[partner]
            lengths = jnp.maximum(lengths, lengths[partner])

        def logits(wave, length, key, state):
            mask_key, network_key = jax.random.split(key)
            wave_options, frame_options = _padding(model, wave, None if self.augment.moves else length)
            x = model.listen(wave, **wave_options)
            share = _share(x, length, samples, frame_options)
            x = self.augment.features(x, share, key=mask_key)
            return model.classify(x, state, key=network_key, **frame_options)

        predictions, state = over_batch(logits)(waves, lengths.astype(jnp.float32), keys, state)
        if adjusts(self.margin):
            predictions = self._add_margin(model, predictions, targets)
        return self._loss(predictions, targets), state

    def _loss(self, logits: Float[Array, "batch classes"], targets: Float[Array, "batch classes"]) -> Float[Array, ""]:
        weights = self._weights(logits.shape[-1])
        if self.task == "multiclass":
            if weights is None:
                return jnp.mean(optax.softmax_cross_entropy(logits, targets))
            return -jnp.mean(jnp.sum(weights * targets * jax.nn.log_softmax(logits), axis=-1))
        losses = optax.sigmoid_binary_cross_entropy(logits, targets)
        if weights is not None:
            losses -= (weights - 1) * targets * jax.nn.log_sigmoid(logits)
        return jnp.mean(losses)

    def _weights(self, classes: int) -> Float[Array, "1 classes"] | None:
        """The weights of the labels, None for equal weights. Raises ValueError if the clips were not counted."""
        if not adjusts(self.class_weights):
            return None
        if len(self.counts) != classes:
            raise ValueError(f"class_weights take the clips of {classes} labels: train.objectives.counted counts them.")
        counts = jnp.asarray(self.counts, jnp.float32)
        weights = jnp.maximum(counts, 1.0) ** -jnp.float32(self.class_weights)
        return (weights * jnp.sum(counts) / jnp.sum(counts * weights))[None]

    def _add_margin(
        self, model: Classifier, logits: Float[Array, "batch classes"], targets: Float[Array, "batch classes"]
    ) -> Float[Array, "batch classes"]:
        """The logits with the margin added to the angles of the target classes, in proportion to their shares."""
        if not isinstance(model.head, Cosine):
            raise ValueError('A margin between angles takes a head of cosines: {"type": "Classifier", "cosine": 30.0}.')
        cosines = logits / model.head.scale
        sines = jnp.sqrt(jnp.maximum(1.0 - jnp.square(cosines), 1e-9))
        sums = cosines * jnp.cos(self.margin) - sines * jnp.sin(self.margin)  # the cosine of angle plus margin
        # For angles beyond pi - margin that cosine would rise again: it is replaced by a straight line that falls
        sums = jnp.where(cosines > -jnp.cos(self.margin), sums, cosines - self.margin * jnp.sin(self.margin))
        return model.head.scale * (targets * sums + (1.0 - targets) * cosines)

    def _smooth(self, targets: Float[Array, "batch classes"]) -> Float[Array, "batch classes"]:
        spread = 1 / targets.shape[-1] if self.task == "multiclass" else 0.5
        return (1 - self.label_smoothing) * targets + self.label_smoothing * spread


def counted(objective: Callable, targets: Float[np.ndarray, "clips classes"]) -> Callable:
    """The objective for clips with these labels: `Supervised` with `class_weights` gets the number of clips a label."""
    if not isinstance(objective, Supervised) or not objective.class_weights:
        return objective
    objective = copy.copy(objective)
    object.__setattr__(objective, "counts", tuple(targets.sum(axis=0).astype(int).tolist()))
    return objective


class Matching(eqx.Module):
    """COLA (Saeed et al., 2021, arXiv:2010.10915): which of the other crops in the batch comes from the same clip?

    The loss is the cross-entropy over the similarity of each anchor with the positives of the whole global batch.
    SpecAugment masks the positives alone, or with `both` the anchors too. The waves of both are augmented.
    """

    augment: Augment = Augment()
    both: bool = False
    """Whether SpecAugment masks the anchors too."""
    task: ClassVar[str] = "contrastive"

    def __call__(
        self, model: COLA, state: eqx.nn.State, batch: Examples, keys: PRNGKeyArray
    ) -> tuple[Float[Array, ""], eqx.nn.State]:
        anchors, positives, state = _projections(model, state, batch, keys, self.augment, mask_first=self.both)
        logits = model.similarity(anchors, jax.lax.all_gather(positives, DEVICES, tiled=True))
        labels = jax.lax.axis_index(DEVICES) * len(anchors) + jnp.arange(len(anchors), dtype=jnp.int32)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), state


class NTXent(eqx.Module):
    """SimCLR's normalised temperature-scaled cross-entropy (Chen et al., 2020, arXiv:2002.05709).

    Each crop of a clip is matched to the other one among all other crops of the global batch.
    """

    augment: Augment = Augment()
    task: ClassVar[str] = "contrastive"

    def __call__(
        self, model: SimCLR, state: eqx.nn.State, batch: Examples, keys: PRNGKeyArray
    ) -> tuple[Float[Array, ""], eqx.nn.State]:
        first, second, state = _projections(model, state, batch, keys, self.augment, mask_first=True)
        views, count = jnp.concatenate([first, second]), 2 * len(first)
        logits = model.similarity(views, jax.lax.all_gather(views, DEVICES, tiled=True))
        row = jnp.arange(count, dtype=jnp.int32)
        start = jax.lax.axis_index(DEVICES) * count
        logits = logits.at[row, start + row].set(-jnp.inf)  # a view is not its own negative
        labels = start + (row + len(first)) % count
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), state


def _padding(model: AbstractModel, wave: Array, length: Array | None) -> tuple[dict[str, Array], dict[str, Array]]:
    """The options for frontend and network that tell them the length of a wave that has padding behind `length`.

    They are empty for models that take no length.
    """
    if not getattr(model, "takes_length", False):
        return {}, {}
    if length is None:
        return {}, model.valid(wave.size)
    length = jnp.maximum(length.astype(jnp.int32), model.frontend.min_samples)
    return {"length": length}, model.valid(wave.size, length)


def _share(x: Array, length: Array, samples: int, frame_options: dict[str, Array]) -> Array:
    """The share of the features `x` that belongs to the clip, `length` of the wave's `samples`."""
    return (
        frame_options["length"].astype(jnp.float32) / len(x) if frame_options else length.astype(jnp.float32) / samples
    )


def views(objective: Callable) -> int:
    """The number of crops of a clip that the objective compares."""
    return 2 if getattr(objective, "task", None) == "contrastive" else 1


def _projections(
    model: COLA | SimCLR, state: eqx.nn.State, batch: Examples, keys: PRNGKeyArray, chain: Augment, *, mask_first: bool
) -> tuple[Float[Array, "batch width"], Float[Array, "batch width"], eqx.nn.State]:
    """The projections of the two views of each clip; both views pass the network as one batch."""
    samples = batch.waves.shape[-1]

    def project(wave, length, masked, key, state):
        wave_key, mask_key, network_key = jax.random.split(key, 3)
        wave_options, frame_options = _padding(model, wave, None if chain.moves else length)
        x = model.listen(chain.wave(wave, length, key=wave_key), **wave_options)
        share = _share(x, length, samples, frame_options)
        x = chain.features(x, share, mask=masked, key=mask_key)
        return model.project(x, state, key=network_key, **frame_options)

    def stack(leaf):
        return jnp.concatenate([leaf[:, 0], leaf[:, 1]])

    keys = stack(jax.vmap(lambda key: jax.random.split(key, 2))(keys))
    masked = jnp.arange(len(keys), dtype=jnp.int32) >= (0 if mask_first else len(batch.waves))
    z, state = over_batch(project)(stack(batch.waves), stack(batch.lengths), masked, keys, state)
    first, second = jnp.split(z, 2)
    return first, second, state
