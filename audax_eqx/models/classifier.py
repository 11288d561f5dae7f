"""A waveform in, class logits out: frontend -> network -> (LayerNorm ->) (projection ->) dropout -> head.

The head is linear, or computes cosines. SpeechBrain's classifiers of languages have hidden layers in front of it.
Perch's head compares the feature map, not the embedding, with prototypes.
"""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractFrontend, AbstractNetwork
from ..layers import Activation, BatchNorm, Cosine, LayerNorm, Length, Linear, Prototypes, activate, keyword, split_key
from ..layers.initial import split
from .abstract import AbstractModel


class HiddenLayer(eqx.Module):
    """norm(leaky relu(linear))."""

    linear: Linear
    norm: BatchNorm

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        self.linear = Linear(inputs, outputs, scale=(2 / inputs) ** 0.5, key=key)
        self.norm = BatchNorm(outputs)

    def __call__(
        self, x: Float[Array, " inputs"], state: eqx.nn.State
    ) -> tuple[Float[Array, " outputs"], eqx.nn.State]:
        return self.norm(jax.nn.leaky_relu(self.linear(x)), state)


class HiddenLayers(eqx.Module):
    """norm(leaky relu(x)), then hidden layers of these `widths`."""

    norm: BatchNorm
    layers: tuple[HiddenLayer, ...]

    def __init__(self, inputs: int, widths: Sequence[int], *, key: PRNGKeyArray):
        self.norm = BatchNorm(inputs)
        pairs = zip((inputs, *widths), widths, split(key, len(widths)), strict=False)
        self.layers = tuple(HiddenLayer(*pair, key=layer_key) for *pair, layer_key in pairs)

    @property
    def outputs(self) -> int:
        return self.layers[-1].linear.outputs if self.layers else self.norm.channels

    def __call__(
        self, x: Float[Array, " inputs"], state: eqx.nn.State
    ) -> tuple[Float[Array, " outputs"], eqx.nn.State]:
        y, state = self.norm(jax.nn.leaky_relu(x), state)
        for layer in self.layers:
            y, state = layer(y, state)
        return y, state


class Classifier(AbstractModel):
    """`frontend` and `network` with a linear head over the embedding.

    - `classes`: the number of classes.
    - `dropout`: the rate in front of the head.
    - `norm`: the eps of a LayerNorm behind the embedding, as in transformers; None for no norm.
    - `projection`: the width of a linear map in front of the head, as in speech models; None for no map.
    - `activation`: the function behind the projection; None for none.
    - `hidden`: the widths of layers behind a leaky ReLU and a norm, as in SpeechBrain's x-vectors; None for no layers.
    - `cosine`: the scale of a head whose logits are the cosines of the embedding with each class's weights, times the
      scale; None for a linear head.
    - `prototypes`: the number of prototypes of each class, for a head over the network's feature map
      (`layers.Prototypes`), which only the dropout precedes; None for a head over the embedding.
    - `task`: the meaning of the logits: "multiclass" for one softmax over all, "multilabel" for a sigmoid of each, None
      if it is unknown. No computation depends on it, but the zoo refuses to save the model under another task.

    If the model accepts a length (`takes_length`), a call with `length` gives the result of the wave's first `length`
    samples alone; `length` may be traced, so that clips of many lengths need one program. Other models raise
    ValueError.

    Build it inside of `eqx.nn.make_with_state`: networks with BatchNorm carry State. If the parameters of its network,
    norm and head are cast to bfloat16, it computes in bfloat16. The parameters of a frontend stay in float32, because
    their last digits are audible.
    """

    frontend: AbstractFrontend
    network: AbstractNetwork
    norm: LayerNorm | None
    projection: Linear | None
    activation: Activation | None = eqx.field(static=True)
    hidden: HiddenLayers | None
    dropout: eqx.nn.Dropout
    head: Linear | Cosine | Prototypes
    task: Literal["multiclass", "multilabel"] | None = eqx.field(static=True)

    def __init__(
        self,
        frontend: AbstractFrontend,
        network: AbstractNetwork,
        classes: int,
        *,
        dropout: float = 0.0,
        norm: float | None = None,
        projection: int | None = None,
        activation: Activation | None = None,
        hidden: Sequence[int] | None = None,
        cosine: float | None = None,
        prototypes: int | None = None,
        task: Literal["multiclass", "multilabel"] | None = None,
        key: PRNGKeyArray,
    ):
        if prototypes is not None and (norm, projection, hidden, cosine) != (None, None, None, None):
            raise ValueError(
                "Classifier with prototypes reads the feature map: leave norm, projection, hidden and cosine out, "
                "which belong to an embedding."
            )
        self.frontend, self.network = frontend, network
        self.norm = None if norm is None else LayerNorm(network.width, eps=norm)
        head_key, (projection_key, hidden_key) = key, split(key, 2)
        width = network.width if projection is None else projection
        self.projection = None if projection is None else Linear(network.width, width, key=projection_key)
        if activation is not None and projection is None:
            raise ValueError(
                f"Classifier has the activation {activation!r} but no projection in front of it: give a projection."
            )
        self.activation = activation
        self.hidden = None if hidden is None else HiddenLayers(width, hidden, key=hidden_key)
        width = self.head_inputs
        if prototypes is not None:
            self.head = Prototypes(width, classes, prototypes, key=head_key)
        elif cosine is not None:
            self.head = Cosine(width, classes, cosine, key=head_key)
        else:
            self.head = Linear(width, classes, key=head_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.task = task

    @property
    def classes(self) -> int:
        return self.head.outputs

    @property
    def head_inputs(self) -> int:
        """The number of inputs of the head."""
        if self.hidden is not None:
            return self.hidden.outputs
        return self.network.width if self.projection is None else self.projection.outputs

    def __call__(
        self,
        wave: Float[Array, " samples"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.classes}"], eqx.nn.State]:
        """Logits, in float32."""
        x = self.listen(wave, length=length)
        return self.classify(x, state, key=key, **self.valid(wave.size, length))

    def classify(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.classes}"], eqx.nn.State]:
        """Logits from the features of `listen`, for training that augments between frontend and network. `length` is
        in frames, as in the result of `valid`."""
        network_key, head_key = split_key(key, 2)
        network: Any = self.network
        if isinstance(self.head, Prototypes):
            y, state = network.features(x, state, key=network_key, **keyword(length))
            steps = None if length is None else network.steps(length)
            return self.head(self.dropout(y, key=head_key), length=steps), state
        y, state = network(x, state, key=network_key, **keyword(length))
        if self.hidden is not None:
            y, state = self.hidden(y, state)
        return self.logits(y, key=head_key), state

    def logits(
        self, embedding: Float[Array, " width"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "{self.classes}"]:
        """Logits, in float32, of an embedding or of the hidden layers' output; a head of prototypes has none."""
        assert not isinstance(self.head, Prototypes), "prototypes read the feature map, not the embedding"
        embedding = embedding if self.norm is None else self.norm(embedding)
        embedding = embedding if self.projection is None else self.projection(embedding)
        embedding = embedding if self.activation is None else activate(embedding, self.activation)
        return self.head(self.dropout(embedding, key=key)).astype(jnp.float32)
