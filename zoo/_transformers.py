"""Converts a model to transformers' layout: its config.json, its preprocessor_config.json, and its arrays."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from audax_eqx import frontends, models, networks

from . import families
from ._entry import Entry
from ._foreign import Layout
from ._inverse import unnamed
from ._register import constructor_of


def transformers_layout(
    entry: Entry, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, Any], dict, Entry]:
    """The config, the extractor's config, the arrays by transformers' keys, and the entry that `load` makes of them.

    Raises ValueError for a model that transformers does not have.
    """
    complete_entry = dataclasses.replace(
        entry,
        frontend=complete(frontends, entry.frontend),
        network=complete(networks, entry.network),
        model=complete(models, entry.model),
    )
    layouts = (family.layout(complete_entry, arrays) for family in families.having("layout"))
    layout: Layout | None = next((item for item in layouts if item is not None), None)
    if layout is None:
        kinds = ", ".join(family.__name__.rpartition(".")[2] for family in families.having("layout"))
        raise ValueError(
            f"transformers has no {entry.network['type']} behind a {entry.frontend['type']}, and the zoo writes the "
            f"models of {kinds} for it: save this one without layout."
        )
    try:
        foreign_arrays = unnamed(layout.arrays, families.rules(layout.table), layout.preferences, layout.undo)
    except ValueError as error:
        raise ValueError(f"transformers cannot hold {entry.name} ({error}): save it without layout.") from None
    result = families.describe(entry.name, layout.config, lambda file: layout.extractor)
    return dict(layout.config), dict(layout.extractor), foreign_arrays, result


def complete(library: ModuleType, description: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a frontend, network or model with all its options, and with its class as the type."""
    options = {name: value for name, value in description.items() if name != "type"}
    constructor: Any = constructor_of(library, description["type"])
    places = ()
    while isinstance(constructor, functools.partial):
        options = constructor.keywords | options
        constructor, places = constructor.func, (*constructor.args, *places)
    if isinstance(options.get("network"), Mapping):
        options["network"] = complete(networks, options["network"])
    bound = inspect.signature(constructor).bind_partial(*places, **options)
    bound.apply_defaults()
    entry_options = {name: value for name, value in bound.arguments.items() if name not in ("key", "classes", "task")}
    return {"type": getattr(constructor, "__name__", ""), **entry_options}
