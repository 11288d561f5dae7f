"""The head of a model that will learn other classes."""

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
    """Raises ValueError if the model sums layers of different sizes."""
    if isinstance(model.network, WeightedLayers):
        samples = max(model.frontend.sample_rate, model.frontend.min_samples)
        wave = jax.ShapeDtypeStruct((samples,), jnp.float32)
        eqx.filter_eval_shape(eqx.nn.inference_mode(model).embed, wave, state)


def classifier(model: Model, network: AbstractNetwork, entry: Entry, fresh: bool, key: PRNGKeyArray) -> Classifier:
    """A classifier for the entry, built of the model's frontend and `network`.

    It keeps the norm and the hidden layers of a model that is a classifier and, unless `fresh`, its projection and its
    head.
    """
    assert entry.task in ("multiclass", "multilabel"), f"{entry.name} has no classes"
    previous = model if isinstance(model, Classifier) else None
    norm = previous and previous.norm
    projection = previous and previous.projection
    hidden = previous and previous.hidden
    head: Any = previous and previous.head
    result = Classifier(
        model.frontend,
        network,
        entry.classes,
        dropout=previous.dropout.p if previous else entry.dropout,
        norm=norm and norm.eps,
        projection=projection and projection.outputs,
        activation=previous and previous.activation,
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
            result = eqx.tree_at(operator.attrgetter(name), result, part)
    return result
