"""A pretrained model as the zoo hands it out: weights, State and entry in one PyTree, in inference mode."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from audax_eqx.layers import Cosine, Length, Linear, Prototypes, keyword
from audax_eqx.models import Classifier
from audax_eqx.networks import WeightedLayers

from ._entry import Entry
from ._files import line
from ._head import check_layers, classifier
from ._labels import rank
from ._limits import check_entry
from ._register import Model
from ._text import embed_texts, has_words, zero_shot
from ._warn import warn_user
from ._wave import Rate, check_process, check_window, checked_wave, note_process


class Thawed(tuple[Model, eqx.nn.State]):
    """What `thaw` returns: the pair `model, state`, with the attribute `entry` that `zoo.save` takes beside them."""

    entry: Entry

    def __new__(cls, model: Model, state: eqx.nn.State, entry: Entry):
        thawed = super().__new__(cls, (model, state))
        thawed.entry = entry
        return thawed


class Pretrained(eqx.Module):
    """A model that takes waveforms, one clip at a time: `Float[Array, " samples"]`, NumPy or JAX, mono, in
    [-1, 1], at `sample_rate` Hz and of any length from one frame on. `zoo.read` returns such a wave.

    Every method that takes a wave takes `sample_rate=` too, and raises ValueError when it differs from the model's.
    These methods raise TypeError or ValueError, with the remedy, for anything but one clip of finite floating-point
    samples, and RuntimeError in a process that was forked from one in which JAX had run. They warn about samples far
    outside of [-1, 1]. If a frontend has a fixed number of frames and a wave is longer, the model uses the beginning
    of the wave and warns.

    They compile once for each length. For a batch, map them: `eqx.filter_jit(eqx.filter_vmap(clip.embed))(waves)`.
    Compile them by `eqx.filter_jit`, which passes the weights as arguments; `jax.jit` does not take these methods.
    """

    model: Model
    state: eqx.nn.State
    entry: Entry = eqx.field(static=True)

    def __check_init__(self):
        note_process()

    def __repr__(self) -> str:
        """One line; `eqx.tree_pprint(clip)` prints the arrays."""
        entry = self.entry
        numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.model) if hasattr(leaf, "shape"))
        names = ", ".join((*entry.labels[:3], *["..."] * (len(entry.labels) > 3)))
        classes = f", {entry.classes} classes" + f" ({names})" * bool(names) if entry.classes else ""
        parts = f"{entry.task}{classes}, {entry.sample_rate} Hz, windows of {entry.window:g} s"
        return line(f"Pretrained({entry.name}: {parts}, {numbers / 1e6:.3g} million parameters)")

    def __hash__(self) -> int:
        try:
            return super().__hash__()
        except TypeError:
            raise TypeError(
                f"{self.entry.name} holds arrays, so it has no hash, and jax.jit cannot take its methods: use "
                "eqx.filter_jit(clip.embed)(wave)."
            ) from None

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.entry.sample_rate

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes. Raises ValueError if the head was replaced by one of other classes."""
        self._check_head()
        self._check_classes(getattr(self.model, "classes", self.entry.classes))
        return self.entry.labels or tuple(f"class {index}" for index in range(self.entry.classes))

    def __call__(self, wave: Any, *, sample_rate: Rate | None = None) -> Float[Array, " outputs"]:
        """The output of the model: a classifier's logits, one for each class; the projection by which a contrastive
        model compares clips; an encoder's embedding, or the output of a linear map behind it."""
        self._check_head()
        return _output(nameless(self), self._checked(wave, sample_rate))

    def probabilities(self, wave: Any, *, sample_rate: Rate | None = None) -> Float[Array, " classes"]:
        """The softmax of the logits of a multiclass model; the sigmoid of each logit of a multilabel model.

        Raises ValueError for a model without classes, and for a head with other classes than the entry's.
        """
        if not self.entry.classifies:
            words = (
                "zero_shot(labels) tells labels in your own words apart" if has_words(self.model) else "use embed(wave)"
            )
            raise ValueError(
                f"{self.entry.name} has no classes and names no sounds: {words}, or train a classifier on it, "
                "thaw(labels=..., key=...)."
            )
        logits = self(wave, sample_rate=sample_rate)
        self._check_classes(logits.shape[0])
        return _activated(self, logits)

    def top(self, wave: Any, k: int | np.integer = 5, *, sample_rate: Rate | None = None) -> list[tuple[str, float]]:
        """The `k` most probable labels, most probable first."""
        return rank(np.asarray(self.probabilities(wave, sample_rate=sample_rate)), self.labels, k)

    def embed(self, wave: Any, *, sample_rate: Rate | None = None) -> Float[Array, " width"]:
        """The embedding of the clip, as the network computes it."""
        return _embedding(nameless(self), self._checked(wave, sample_rate))

    def embed_text(self, texts: Any) -> Float[Array, "texts width"]:
        """The embeddings of a text or of a list of texts, one row for each text. They have length 1 and lie in the
        space of `embed(wave)`, so that products of both are cosines. A text with too many tokens is cut.

        Raises ValueError for a model without words, for no texts and for empty ones, and TypeError for anything but
        texts.
        """
        return embed_texts(self.model, self.entry, texts)

    def zero_shot(self, labels: Any, prompt: str = "This is a sound of {}.") -> "Pretrained":
        """A classifier for labels in your own words: `clip.zero_shot(["dog", "rain"]).top(wave)`.

        Each label is put into `prompt`, and the text gets an embedding. The probabilities are the softmax of the scaled
        cosines of the wave's embedding with those of the texts, so each depends on all labels. Raises ValueError for a
        model without words, for anything but a list of different labels, for a prompt without exactly one {}, and for
        a label or a prompt of more than 1000 letters.
        """
        return Pretrained(*zero_shot(self.model, self.state, self.entry, labels, prompt))

    def frames(self, wave: Any, *, sample_rate: Rate | None = None) -> Float[Array, "frames width"]:
        """Embeddings over time: the network's last feature map, averaged over frequency."""
        return _frames(nameless(self), self._checked(wave, sample_rate))

    def layers(self, wave: Any, *, sample_rate: Rate | None = None) -> tuple[Float[Array, "_frames _width"], ...]:
        """The output of every layer over time, averaged over frequency. The layers are the stages of a convolutional
        network; for a Transformer they are the input of its blocks, and then each block. The last output equals
        `frames(wave)`, unless the network has a norm or a weighted sum behind its layers."""
        return _layers(nameless(self), self._checked(wave, sample_rate))

    def frame_times(self, frames: int, layer: int = -1) -> Float[np.ndarray, " frames"]:
        """The seconds from the start of the wave to the centres of the first `frames` rows of `frames(wave)`, or, with
        `layer`, of `layers(wave)[layer]`. Raises ValueError for a layer that the network does not have."""
        network = self.model.network
        try:
            positions = network.positions(frames) if layer == -1 else network.positions(frames, layer)
        except IndexError:
            raise ValueError(
                f"{self.entry.name} has no layer {layer}: give a valid index of clip.layers(wave)."
            ) from None
        return self.model.frontend.times(positions)  # a user's own network may have no layers

    def thaw(
        self,
        classes: int | np.integer | None = None,
        *,
        labels: Any = None,
        task: str | None = None,
        window: float | None = None,
        layers: str = "last",
        name: str | None = None,
        key: PRNGKeyArray,
    ) -> Thawed:
        """A copy to fine-tune, `model, state = clip.thaw(labels=("rain", "clock"), key=key)`: the model in training
        mode and its own State. It trains under `jax.vmap(..., axis_name="batch")`.

        With `labels`, or the number of `classes` alone, the copy is a `Classifier` with a fresh head, whatever this
        model is. Without both, it keeps its head, and a model without classes stays without. `task` is what you train
        for: "multiclass" (cross entropy of a softmax: one label for each clip), the default of a fresh head, or
        "multilabel" (a sigmoid for each class). `window` is the length in seconds of the clips that you train on. With
        layers="weighted" the fresh head takes a sum of the network's layers, whose weights are trained too: in a
        Transformer the lower layers tell more about who speaks, the upper ones about what is said.

        The result also has an `entry` for `zoo.save(folder, model, state, thawed.entry)`, with your `name`, with this
        model as its base and without metrics. Raises ValueError for options that contradict each other, and warns about
        a fresh head without `task` on a multilabel model.
        """
        check_process(self.entry.name)
        entry = self.entry.finetuned(
            classes=None if classes is None else int(classes),
            labels=labels,
            task=task,
            window=window,
            layers=layers,
            name=name,
        )
        check_entry(entry, f"The model to make of {self.entry.name}")  # or it could not be saved
        check_window(entry.window, self.model.frontend, entry.name)
        fresh = classes is not None or labels is not None
        if fresh and task is None and self.entry.task == "multilabel":
            warn_user(
                f"{self.entry.name} is multilabel, and the new head is taken for multiclass, one label a clip: say "
                'task="multiclass", or task="multilabel" if you train it with a sigmoid for each class.',
            )
        model, state = jax.tree.map(
            lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, (self.model, self.state)
        )
        if fresh or (isinstance(model, Classifier) and model.task != entry.task):
            network = WeightedLayers(model.network) if entry.network != self.entry.network else model.network
            model = classifier(model, network, entry, fresh, key)
            check_layers(model, state)
        return Thawed(eqx.nn.inference_mode(model, value=False), state, entry)

    def _checked(self, wave: Any, sample_rate: Rate | None) -> Float[Array, " samples"]:
        check_process(self.entry.name)
        return checked_wave(wave, sample_rate, self.model.frontend, self.entry.name, self.entry.window)

    def _check_classes(self, outputs: int) -> None:
        if outputs != self.entry.classes:
            raise ValueError(
                f"{self.entry.name} has a head of {outputs} outputs and the labels of {self.entry.classes} classes: "
                "clip.thaw(labels=..., key=key) makes a head with labels of its own."
            )

    def _check_head(self) -> None:
        """Raises TypeError or ValueError if the head of a classifier was replaced by one that does not fit."""
        if not isinstance(self.model, Classifier):
            return
        head: Any = self.model.head
        width = self.model.head_inputs
        if not hasattr(head, "outputs"):
            kind = f"{type(head).__module__}.{type(head).__qualname__}"
            raise TypeError(
                f"{self.entry.name} has a head of the type {kind}, and a Classifier takes an audax_eqx.layers.Linear: "
                f"Linear({width}, {self.entry.classes}, key=key), or clip.thaw(labels=..., key=key), which makes one."
            )
        bias = getattr(head, "bias", None)
        weight, bias = head.weight.shape[-2:], None if bias is None else bias.shape[-1:]
        if isinstance(head, Linear | Cosine) and (
            weight != (head.outputs, width) or bias not in (None, (head.outputs,))
        ):
            raise ValueError(
                f"{self.entry.name} has a head with a weight of the shape {weight} and a bias of {bias}, behind an "
                f"embedding of {width} numbers: put in a whole one, audax_eqx.layers.Linear({width}, "
                f"{self.entry.classes}, key=key)."
            )


# The outputs for a wave whose first `length` samples are sound; None for models that take no length


def output(clip: Pretrained, wave: Float[Array, " samples"], length: Length = None) -> Float[Array, " outputs"]:
    """What a call of the model returns: logits, a projection or an embedding."""
    model: Any = clip.model
    return model(wave, clip.state, **keyword(length))[0]


def embedding(clip: Pretrained, wave: Float[Array, " samples"], length: Length = None) -> Float[Array, " width"]:
    """What `Pretrained.embed` returns."""
    model: Any = clip.model
    return model.embed(wave, clip.state, **keyword(length))[0]


def frames(clip: Pretrained, wave: Float[Array, " samples"], length: Length = None) -> Float[Array, "frames width"]:
    """What `Pretrained.frames` returns; rows behind `length` have no meaning."""
    return jnp.mean(_map(clip, wave, length), axis=1)


def layers(clip: Pretrained, wave: Float[Array, " samples"]) -> tuple[Float[Array, "_frames _width"], ...]:
    """What `Pretrained.layers` returns."""
    network: Any = clip.model.network
    x, valid = _network_input(clip, wave, None)
    return tuple(jnp.mean(each, axis=1) for each in network.layers(x, clip.state, **valid)[0])


def scores(clip: Pretrained, wave: Float[Array, " samples"], length: Length = None) -> Float[Array, " classes"]:
    """What `Pretrained.probabilities` returns."""
    return _activated(clip, output(clip, wave, length))


def frame_scores(
    clip: Pretrained, wave: Float[Array, " samples"], length: Length = None
) -> Float[Array, "frames classes"]:
    """The scores of each step of the feature map, as if the map had no other step (Zhou et al., 2016,
    arXiv:1512.04150)."""
    model: Any = clip.model

    def step_logits(step: Float[Array, "time freq channels"]) -> Float[Array, " classes"]:
        if isinstance(getattr(model, "head", None), Prototypes):
            return model.head(step)
        return model.logits(model.network.pool_map(step))

    logits = jax.vmap(step_logits)(_map(clip, wave, length)[:, None])
    return _activated(clip, logits)


_output, _embedding, _frames = map(eqx.filter_jit, (output, embedding, frames))
_layers = eqx.filter_jit(layers)


def nameless(clip: Pretrained) -> Pretrained:
    """The clip with an entry that is equal for all models of one kind, so that other labels compile no new program."""
    entry = dataclasses.replace(
        clip.entry, name="", labels=(), license=None, source=None, paper=None, metrics=(), checkpoint=None, base=None
    )
    return Pretrained(clip.model, clip.state, entry)


def takes_length(clip: Pretrained) -> bool:
    """Whether the model's outputs for a padded wave and its length equal those for the wave alone."""
    return getattr(clip.model, "takes_length", False)


def _map(clip: Pretrained, wave: Float[Array, " samples"], length: Length) -> Float[Array, "time freq channels"]:
    network: Any = clip.model.network
    x, valid = _network_input(clip, wave, length)
    return network.features(x, clip.state, **valid)[0]


def _network_input(
    clip: Pretrained, wave: Float[Array, " samples"], length: Length
) -> tuple[Float[Array, "frames bins"], dict[str, Array]]:
    """The network's input for a wave, and the keywords that tell the network how much of it is valid."""
    model: Any = clip.model
    valid = model.valid(wave.size, length) if takes_length(clip) else {}
    return model.listen(wave, **keyword(length)), valid


def _activated(clip: Pretrained, logits: Float[Array, "*rows classes"]) -> Float[Array, "*rows classes"]:
    return jax.nn.softmax(logits) if clip.entry.task == "multiclass" else jax.nn.sigmoid(logits)
