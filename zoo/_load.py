"""Names, folders and repos to models."""

import dataclasses
import difflib
import fnmatch
import functools
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np

from . import families
from ._arrays import View, open_files, shapes_of
from ._entry import Entry, Model, from_json, skeleton
from ._files import (
    CONFIG,
    EXTRACTOR,
    GOLDEN,
    WEIGHTS,
    existing,
    no_folder,
    parse_json,
    read_text,
)
from ._golden import verify as verify_golden
from ._labels import AUDIOSET, CODE, label_dict, read_labels, read_names
from ._limits import check_entry, check_size
from ._pretrained import Pretrained
from ._repo import PACKAGED, count_download, is_cached, kept, packaged, repo_files
from ._rules import Rule, rename
from ._text import Tokenizer, has_words, with_tokenizer
from ._weights import Arrays, ArraysByName, check, fill, named_leaves

REPO = r"[\w.-]+/[\w.-]+"
DEFAULT = "resnet_esc10"  # a packaged model


def list_models(pattern: str = "*") -> list[str]:
    """The names that `load` knows, those that match the shell pattern, sorted."""
    return sorted(fnmatch.filter([*families.entries(), *packaged()], pattern))


def info(name: str | os.PathLike, *, revision: str | None = None) -> Entry:
    """What is known of a model, without its weights. Takes the names that `load` takes, and raises as it does."""
    name = os.fspath(name)
    return families.entries().get(name) or _described(name, _folder(name, revision))


def load(name: str | os.PathLike, *, revision: str | None = None, verify: bool = False) -> Pretrained:
    """The pretrained model `name`: a name of `list_models()`, a folder, or a Hub repo "owner/name".

    A folder or repo holds what `save` wrote, or a model in the layout of another library, whose `config.json` one of
    `zoo.families` reads. Where it has no `model.safetensors`, the weights are those in `pytorch_model.bin`, of which
    nothing is run; of a repo, what the Hub's bot made of these in a pull request comes first. `revision` is the Hub's:
    a branch, tag or commit of the repo with the weights, and then no pull request counts. With `verify` the model runs
    once and must give the golden output that `save` wrote, to 1e-4 of the largest.

    Raises ValueError for an unknown name, with the nearest one, for files that are broken, too large or ask for too
    much, for weights that do not fit, and for another output than the golden one, or none to verify by. Raises OSError
    (ConnectionError, FileNotFoundError, PermissionError) when files cannot be had.
    """
    name = os.fspath(name)
    entry, fetch = found(name, revision)
    file, rules = source(entry)
    arrays = _by_table(entry, open_files(file, functools.partial(fetch, rules=rules or ())))
    clip = assemble(entry, arrays, shapes_of(arrays), getattr(arrays, "path", name), rules)
    if has_words(clip.model):
        tokenizer = Tokenizer.of(name, revision, fetch, folder=local(name) is not None)
        clip = Pretrained(with_tokenizer(clip.model, tokenizer), clip.state, clip.entry)
    if verify:
        try:
            path = fetch(GOLDEN)
        except FileNotFoundError:
            raise ValueError(f"{name} has no {GOLDEN} to verify it by: load it without verify=True.") from None
        verify_golden(clip, path)
    return clip


def found(
    name: str, revision: str | None, *, count: bool = True, weights: bool = True
) -> tuple[Entry, Callable[..., pathlib.Path]]:
    """What `load` loads: its entry, labels included, and the function that gives the path of a file.

    With `count` the Hub counts a download. Without `weights` they are not fetched for labels that lie among them.
    """
    if (entry := families.entries().get(name)) is not None:
        assert entry.checkpoint is not None, f"{name} is published and has no checkpoint"
        fetch = repo_files(entry.checkpoint.repo, revision)
        if count and entry.checkpoint.label_file != CONFIG:
            count_download(entry.checkpoint.repo, revision)
        among = entry.checkpoint.label_file == entry.checkpoint.file
        return (_labelled(entry, fetch) if weights or not among else entry), fetch
    fetch = _folder(name, revision)
    return _described(name, fetch), fetch


def source(entry: Entry) -> tuple[str | tuple[str, ...], Sequence[Rule] | None]:
    """The files that hold an entry's weights, and the rules by which they become ours; None where they are."""
    if entry.checkpoint is None:
        return WEIGHTS, None
    return entry.checkpoint.file, families.rules(entry.checkpoint.table)


def _by_table(entry: Entry, arrays: ArraysByName) -> ArraysByName:
    """The arrays by the keys of the entry's table, where these are not the file's own."""
    names = entry.checkpoint and families.names(entry.checkpoint.table, shapes_of(arrays))
    return arrays if names is None else View({name: (arrays, key) for name, key in names.items()})


def assemble(
    entry: Entry,
    arrays: ArraysByName,
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
    rules: Sequence[Rule] | None = None,
) -> Pretrained:
    """The entry's model with the arrays of the file `where`, which are ours, or become ours by `rules`.

    Raises as `fit` does.
    """
    model, state, sources = fit(entry, shapes, where, rules)

    def value(name: str) -> np.ndarray:
        key, rule = sources[name]
        return arrays[key] if rule is None else rule.move(arrays[key])

    model, state = fill(model, state, value)
    return Pretrained(eqx.nn.inference_mode(model), state, entry)


def fit(
    entry: Entry, shapes: Mapping[str, tuple[int, ...]], where: str, rules: Sequence[Rule] | None = None
) -> tuple[Model, eqx.nn.State, Mapping[str, tuple[str, Rule | None]]]:
    """The entry's skeleton, and for each of its arrays the one of the file `where` that fills it, and by which rule.

    Raises ValueError that lists the first arrays that are missing, surplus or of another shape than the model's.
    """
    faults: list[str] = []
    sources = {name: (name, None) for name in shapes}
    if rules is not None:
        sources, faults = rename(shapes, rules)
    moved = {name: shapes[key] if rule is None else rule.moved(shapes[key]) for name, (key, rule) in sources.items()}
    model, state = skeleton(entry)
    wanted = {name: leaf.shape for name, leaf in named_leaves(model, state).items()}
    check_size(wanted, entry.name)
    check(moved, wanted, where, faults)
    return model, state, sources


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


def _labelled(entry: Entry, fetch: Callable[[str], pathlib.Path]) -> Entry:
    """A published entry with what its repo alone knows: the labels, or all that its own `config.json` describes."""
    assert entry.checkpoint is not None
    match entry.checkpoint.label_file:
        case None:
            return entry
        case "config.json":
            described = _described(entry.checkpoint.repo, fetch)
            own = ("frontend", "network", "model", "classes", "labels", "window")
            return dataclasses.replace(entry, **{field: getattr(described, field) for field in own})
        case file if file == entry.checkpoint.file:
            labels = label_dict(Arrays(fetch(file)).settings, f"{file} of {entry.checkpoint.repo}", entry.classes)
            return dataclasses.replace(entry, labels=named(labels, entry.name))
        case file:
            if entry.checkpoint.label_repo is not None:
                fetch = functools.partial(kept, entry.checkpoint.label_repo)  # a revision is of the weights' repo
            return dataclasses.replace(entry, labels=read_labels(fetch(file)))


def named(labels: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The labels, with AudioSet's names in place of its codes; as they are, with a warning, where these are missing."""
    if not any(CODE.fullmatch(label) for label in labels):
        return labels
    try:
        names = read_names(kept(AUDIOSET["label_repo"], AUDIOSET["label_file"]))
    except OSError as error:
        warnings.warn(
            f"{name} has AudioSet's codes for labels, {labels[0]} say, and not their names ({error}) Ask for it again "
            "then.",
            stacklevel=5,
        )
        return labels
    return tuple(names.get(label, label) for label in labels)
