"""Names, folders and repos to models."""

import dataclasses
import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import numpy as np

from . import families
from ._arrays import View, open_files, shapes_of
from ._create import skeleton
from ._entry import Entry
from ._files import CONFIG, GOLDEN, WEIGHTS
from ._golden import verify as verify_golden
from ._labels import AUDIOSET, CODE, label_dict, read_labels, read_names
from ._leaves import check, fill, named_leaves
from ._limits import check_size
from ._models import _described, _folder, local
from ._pretrained import Pretrained
from ._register import Model
from ._repo import count_download, kept, repo_files
from ._rules import Rule, rename
from ._text import Tokenizer, has_words, with_tokenizer
from ._weights import Arrays, ArraysByName


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
