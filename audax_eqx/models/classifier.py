"""A waveform in, class logits out: frontend -> network -> (LayerNorm ->) dropout -> linear head."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractFrontend, AbstractNetwork
from ..layers import LayerNorm, Linear, split_key


class Classifier(eqx.Module):
    """`frontend` and `network` with a linear head over the embedding.

    `dropout` is the rate in front of the head; `norm`, if given, the eps of a LayerNorm in front of that, which
    transformers have. `task` says what the logits are for: "multiclass" for one softmax over all, "multilabel" for a
    sigmoid of each, None where nobody has said. It computes nothing; the zoo saves no model under another task.

    Build it inside of `eqx.nn.make_with_state`: networks with BatchNorm carry State. With the parameters of its
    network, norm and head cast to bfloat16 it computes in bfloat16; a frontend's own parameters stay in float32, for
    their last digits are audible.
    """

    frontend: AbstractFrontend
    network: AbstractNetwork
    norm: LayerNorm | None
    dropout: eqx.nn.Dropout
    head: Linear
    task: Literal["multiclass", "multilabel"] | None = eqx.field(static=True)

    def __init__(
        self,
        frontend: AbstractFrontend,
        network: AbstractNetwork,
        classes: int,
        *,
        dropout: float = 0.0,
        norm: float | None = None,
        task: Literal["multiclass", "multilabel"] | None = None,
        key: PRNGKeyArray,
    ):
        self.frontend, self.network = frontend, network
        self.norm = None if norm is None else LayerNorm(network.width, eps=norm)
        self.dropout = eqx.nn.Dropout(dropout)
        self.head = Linear(network.width, classes, key=key)
        self.task = task

    @property
    def classes(self) -> int:
        return self.head.outputs

    def listen(self, wave: Float[Array, " samples"]) -> Float[Array, "frames bins"]:
        """The frontend's features, which are float32, in the dtype that the network computes in."""
        return self.frontend(wave).astype(self.head.weight.dtype)

    def embed(
        self, wave: Float[Array, " samples"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "{self.network.width}"], eqx.nn.State]:
        """The clip's embedding: the network's output."""
        return self.network(self.listen(wave), state, key=key)

    def __call__(
        self, wave: Float[Array, " samples"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "{self.classes}"], eqx.nn.State]:
        """Logits, in float32."""
        return self.classify(self.listen(wave), state, key=key)

    def classify(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "{self.classes}"], eqx.nn.State]:
        """Logits from what `listen` gives, for training that augments between frontend and network."""
        network_key, head_key = split_key(key, 2)
        embedding, state = self.network(x, state, key=network_key)
        return self.logits(embedding, key=head_key), state

    def logits(
        self, embedding: Float[Array, " width"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "{self.classes}"]:
        """Logits of an embedding, in float32."""
        embedding = embedding if self.norm is None else self.norm(embedding)
        return self.head(self.dropout(embedding, key=key)).astype(jnp.float32)
