"""Construction of models: each class that an entry names is looked up and called with the entry's options."""

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from audax_eqx import AbstractNetwork, frontends, models, networks
from audax_eqx.layers.initial import split

from ._entry import Entry
from ._files import line
from ._register import Model, constructor_of, constructors


def create(entry: Entry, *, key: PRNGKeyArray) -> tuple[Model, eqx.nn.State]:
    """The entry's model with random weights, in training mode, and the model's State."""
    return eqx.nn.make_with_state(_build)(entry, key)


def skeleton(entry: Entry) -> tuple[Model, eqx.nn.State]:
    """The result of `create` with `jax.ShapeDtypeStruct` leaves. Nothing is computed or allocated."""
    return eqx.filter_eval_shape(create, entry, key=jax.random.key(0))


def _build(entry: Entry, key: PRNGKeyArray) -> Model:
    network_key, model_key, frontend_key = split(key, 3)
    description = dict(entry.model)
    frontend = _construct(frontends, entry.frontend, entry.name, key=frontend_key)
    network = _network(entry.network, entry.name, network_key)
    parts: dict[str, Any] = {"frontend": frontend, "network": network, "key": model_key}
    if entry.classes:
        parts |= {"classes": entry.classes, "dropout": entry.dropout, "task": entry.task}
    if isinstance(description.get("text"), Mapping):
        text_key, parts["key"] = split(model_key, 2)
        towers = {"RoBERTa": networks.RoBERTa}  # the networks that take texts
        parts["text"] = _construct(networks, description.pop("text"), entry.name, choices=towers, key=text_key)
    return _construct(models, description, entry.name, **parts)


def _network(description: Mapping[str, Any], name: str, key: PRNGKeyArray) -> AbstractNetwork:
    """The network. If it contains another network, that one is built first."""
    inner = description.get("network")
    if not isinstance(inner, Mapping):
        return _construct(networks, description, name, key=key)
    inner_key, key = split(key, 2)
    outer = {option: value for option, value in description.items() if option != "network"}
    return _construct(networks, outer, name, network=_network(inner, name, inner_key), key=key)


def _construct(
    library: types.ModuleType,
    description: Mapping[str, Any],
    name: str,
    *,
    choices: Mapping[str, Callable] | None = None,
    **keywords,
):
    """Calls the constructor of the description's type with the description's options and with `keywords`.

    `key`, `task` and a dropout of 0 go only to constructors that take them. The type is a key of `choices`; if that is
    None, it is a class of the library or one that the user registered.
    """
    options = dict(description)
    kind = options.pop("type", None)
    constructor = None
    if isinstance(kind, str):
        constructor = constructor_of(library, kind) if choices is None else choices.get(kind)
    if constructor is None:
        names = ", ".join(constructors(library) if choices is None else choices)
        raise ValueError(
            f"{name} names {kind!r}, which is not in {library.__name__}: it has {names}, and each process that uses a "
            f"class of your own calls zoo.register({kind if isinstance(kind, str) else 'MyClass'}) first."
        )
    signature = inspect.signature(constructor)
    optional = ("key", "task") if keywords.get("dropout") else ("key", "task", "dropout")
    keywords = {key: value for key, value in keywords.items() if key not in optional or key in signature.parameters}
    if conflicts := sorted(set(options) & set(keywords)):
        raise ValueError(f"{name} gives {kind} {', '.join(conflicts)}, which the entry itself decides: leave it out.")
    try:
        signature.bind(**options, **keywords)
    except TypeError as error:
        raise ValueError(f"{name} gives options that {kind} does not take: {error}.") from None
    try:
        return constructor(**options, **keywords)
    except (TypeError, ArithmeticError, LookupError) as error:
        options_text, is_custom = line(str(options), 1000), getattr(library, kind, None) is not constructor
        cause = f" ({type(error).__name__}: {line(str(error))})" if is_custom else ""
        raise ValueError(f"{name} gives {kind} an option that makes no sense to it{cause}: {options_text}.") from (
            error if is_custom else None
        )
    except ValueError as error:
        raise ValueError(f"{name}: {line(str(error), 1000).rstrip('.')}.") from None
