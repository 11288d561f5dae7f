"""What is known of models by their names, without their weights: nothing here needs JAX."""

import dataclasses
import difflib
import fnmatch
import functools
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from . import families
from ._entry import Entry, from_json
from ._files import CONFIG, EXTRACTOR, existing, no_folder, parse_json, read_text
from ._limits import check_entry
from ._repo import PACKAGED, is_cached, packaged, repo_files

REPO = r"[\w.-]+/[\w.-]+"
DEFAULT = "resnet_esc10"  # a packaged model


def list_models(pattern: str = "*") -> list[str]:
    """The names that `load` knows, those that match the shell pattern, sorted."""
    return sorted(fnmatch.filter([*families.entries(), *packaged()], pattern))


def info(name: str | os.PathLike, *, revision: str | None = None) -> Entry:
    """What is known of a model, without its weights. Takes the names that `load` takes, and raises as it does."""
    name = os.fspath(name)
    return families.entries().get(name) or _described(name, _folder(name, revision))


def repo_of(name: str) -> str | None:
    """The Hub repo with the weights of what `load` loads by that name; None for a packaged model or a folder.

    Asks nobody. Raises ValueError and FileNotFoundError for what is no name of a model, as `load` does.
    """
    if (entry := families.entries().get(name)) is not None:
        return entry.checkpoint and entry.checkpoint.repo
    _folder(name, None)
    return name if local(name) is None else None


def local(name: str) -> pathlib.Path | None:
    """The folder of a packaged model, or the folder itself that `name` is; None for others."""
    if name in packaged():
        return PACKAGED / name
    return pathlib.Path(name) if os.path.isdir(name) else None


def _folder(name: str, revision: str | None) -> Callable[..., pathlib.Path]:
    """The function that gives the path of a file of the packaged model, the folder or the Hub repo `name`.

    Rules as its second argument say which arrays of a file of weights need not be in it.
    """
    if (folder := local(name)) is not None:
        if revision is not None:
            raise ValueError(f"revision={revision!r} is a version on the Hub, and {name} is a folder: leave it out.")
        return lambda file, rules=(): existing(folder, file)
    if os.path.lexists(name):
        raise ValueError(no_folder(pathlib.Path(name)))
    parent = os.path.dirname(name.rstrip(os.sep))
    repo = bool(re.fullmatch(REPO, name)) and not name.startswith(".")
    if repo and (revision is not None or not os.path.isdir(parent) or is_cached(name)):
        return repo_files(name, revision, f" Nor is there a folder {name} in {os.getcwd()}.")
    if repo or os.sep in name:
        siblings = os.listdir(parent) if os.path.isdir(parent) else []
        near = difflib.get_close_matches(os.path.basename(name.rstrip(os.sep)), siblings, n=1)
        instead = f"did you mean {os.path.join(parent, near[0])}? " if near else ""
        hub = f" The repo {name} of the Hub loads with revision='main'." if repo else ""
        raise FileNotFoundError(
            f"{name} is not a folder: {instead}The zoo takes a name of zoo.list_models(), a folder or a Hub repo.{hub}"
        )
    near = difflib.get_close_matches(name, [*list_models(), *os.listdir()], n=1)
    instead = f": did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"The zoo has no model {name!r}{instead} There is no folder of that name either. zoo.list_models() names all; "
        'a folder or a Hub repo "owner/name" loads too.'
    )


def _described(name: str, fetch: Callable[[str], pathlib.Path]) -> Entry:
    """The entry in the folder's or repo's `config.json`. Raises ValueError for one that asks for too much."""
    instead = [] if os.path.exists(os.path.join(name, CONFIG)) else _instead(name)
    path = fetch(instead[0][0] if instead else CONFIG)
    text = read_text(path)
    try:
        config = instead[0][1] if instead else parse_json(text, str(path))
        if isinstance(config, dict) and families.foreign(config):
            name = pathlib.Path(name).resolve().name if os.path.isdir(name) else name
            entry = families.describe(name, config, functools.partial(_content, fetch))
        else:
            entry = _as_saved(from_json(text, str(path)), fetch)
        check_entry(entry, str(path))
    except RecursionError:
        raise ValueError(f"{path} is nested deeper than any description of a model: do not trust it.") from None
    return entry


def _instead(name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The files of a folder that stand for its `config.json`, and what that would say."""
    known = [each for family in families.having("WITHOUT_CONFIG") for each in family.WITHOUT_CONFIG.items()]
    return [(file, config) for file, config in known if os.path.isfile(os.path.join(name, file))]


def _content(fetch: Callable[[str], pathlib.Path], file: str) -> Any:
    """What a file beside `config.json` holds: JSON, or text."""
    path = fetch(file)
    return parse_json(read_text(path), str(path)) if file.endswith(".json") else read_text(path)


def _as_saved(entry: Entry, fetch: Callable[[str], pathlib.Path]) -> Entry:
    """The entry with today's name of its frontend.

    Version 0.1 called `librosa_log_mel` what is torchlibrosa's, and its frontends had no `ref`.
    """
    if entry.frontend.get("type") != "librosa_log_mel":
        return entry
    try:
        path = fetch(EXTRACTOR)
    except FileNotFoundError:
        return entry
    numbers = parse_json(read_text(path), str(path))
    if isinstance(numbers, dict) and "ref" in numbers:
        return entry
    frontend = {"bins": 128} | dict(entry.frontend) | {"type": "torchlibrosa_log_mel"}
    return dataclasses.replace(entry, frontend=frontend)
