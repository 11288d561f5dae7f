"""The head that a model gets when it is to learn other classes."""

import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from audax_eqx import AbstractNetwork
from audax_eqx.layers import Cosine, Prototypes
from audax_eqx.models import Classifier
from audax_eqx.networks import WeightedLayers

from ._entry import Entry
from ._register import Model


def check_layers(model: Classifier, state: eqx.nn.State) -> None:
    """Raises ValueError for a sum of layers that have several sizes."""
    if isinstance(model.network, WeightedLayers):
        samples = max(model.frontend.sample_rate, model.frontend.min_samples)
        wave = jax.ShapeDtypeStruct((samples,), jnp.float32)
        eqx.filter_eval_shape(eqx.nn.inference_mode(model).embed, wave, state)


def classifier(model: Model, network: AbstractNetwork, entry: Entry, fresh: bool, key: PRNGKeyArray) -> Classifier:
    """A classifier for the entry on the model's frontend and this network, with its norm, its hidden layers and, unless
    `fresh`, its projection and its head."""
    assert entry.task in ("multiclass", "multilabel"), f"{entry.name} has no classes"
    before = model if isinstance(model, Classifier) else None
    norm = before and before.norm
    projection = before and before.projection
    hidden = before and before.hidden
    head: Any = before and before.head
    made = Classifier(
        model.frontend,
        network,
        entry.classes,
        dropout=before.dropout.p if before else entry.dropout,
        norm=norm and norm.eps,
        projection=projection and projection.outputs,
        activation=before and before.activation,
        hidden=hidden and [layer.linear.outputs for layer in hidden.layers],
        cosine=head.scale if isinstance(head, Cosine) else None,
        prototypes=head.count if isinstance(head, Prototypes) else None,
        task=entry.task,
        key=key,
    )
    parts = {"norm": norm, "hidden": hidden}
    if not fresh:
        parts |= {"projection": projection, "head": head}
    for name, part in parts.items():
        if part is not None:
            made = eqx.tree_at(operator.attrgetter(name), made, part)
    return made
