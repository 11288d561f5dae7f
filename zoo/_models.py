"""Names and entries of models, without their weights. Nothing in this file needs JAX."""

import fnmatch
import functools
import os
from collections.abc import Mapping
from typing import Any

from . import families
from ._entry import Entry, from_json
from ._files import CONFIG, EXTRACTOR, parse_json, read_text
from ._limits import check_entry
from ._source import Source, packaged, source_of

DEFAULT = "resnet_esc10"  # a packaged model


def list_models(pattern: str = "*") -> list[str]:
    """The names of published and packaged models that match the shell pattern, sorted."""
    return sorted(fnmatch.filter([*families.entries(), *packaged()], pattern))


def info(name: str | os.PathLike, *, revision: str | None = None) -> Entry:
    """The entry of a model, without its weights. Takes the names that `load` takes, and raises as it does."""
    name = os.fspath(name)
    return families.entries().get(name) or entry_from_config(source_of(name, revision))


def entry_from_config(source: Source) -> Entry:
    """The entry in the `config.json` of a folder or repo. Raises ValueError if it asks for too much memory."""
    stand_ins = [] if source.folder is None or (source.folder / CONFIG).exists() else _stand_ins(source)
    path = source.path(stand_ins[0][0] if stand_ins else CONFIG)
    text = read_text(path)
    try:
        config = stand_ins[0][1] if stand_ins else parse_json(text, str(path))
        if isinstance(config, dict) and families.foreign(config):
            entry = families.describe(source.name, config, functools.partial(_content, source))
        else:
            entry = _renamed_frontend(from_json(text, str(path)), source)
            entry = entry if source.folder is not None else entry.replace(origin=source.name)
        check_entry(entry, str(path))
    except RecursionError:
        raise ValueError(f"{path} is nested deeper than any description of a model: do not trust it.") from None
    return entry


def _stand_ins(source: Source) -> list[tuple[str, Mapping[str, Any]]]:
    """The files of a folder that replace a missing `config.json`, each with the config that it implies."""
    configs = [item for family in families.having("WITHOUT_CONFIG") for item in family.WITHOUT_CONFIG.items()]
    return [(file, config) for file, config in configs if source.folder and (source.folder / file).is_file()]


def _content(source: Source, file: str) -> Any:
    """The content of a file beside `config.json`: parsed JSON, or text."""
    path = source.path(file)
    return parse_json(read_text(path), str(path)) if file.endswith(".json") else read_text(path)


def _renamed_frontend(entry: Entry, source: Source) -> Entry:
    """The entry with the current name of its frontend.

    Version 0.1 gave the name `librosa_log_mel` to torchlibrosa's frontend, whose numbers had no `ref`.
    """
    if entry.frontend.get("type") != "librosa_log_mel":
        return entry
    try:
        numbers = _content(source, EXTRACTOR)
    except FileNotFoundError:
        return entry
    if isinstance(numbers, dict) and "ref" in numbers:
        return entry
    return entry.replace(frontend={"bins": 128} | dict(entry.frontend) | {"type": "torchlibrosa_log_mel"})
