"""Loads models from names, folders and repos."""

import functools
import os
from collections.abc import Mapping, Sequence

import equinox as eqx
import numpy as np

from . import families
from ._arrays import View, open_files, shapes_of
from ._create import skeleton
from ._entry import Entry
from ._entry_labels import with_labels
from ._files import CONFIG, GOLDEN, WEIGHTS
from ._golden import verify as verify_golden
from ._leaves import check, fill, named_leaves
from ._limits import check_size
from ._models import entry_from_config
from ._pretrained import Pretrained
from ._register import Model
from ._rules import Rule, rename
from ._source import Source, source_of
from ._text import Tokenizer, has_words, with_tokenizer
from ._weights import ArraysByName


def load(name: str | os.PathLike, *, revision: str | None = None, verify: bool = False) -> Pretrained:
    """The pretrained model `name`: a name of `list_models()`, a folder, or a Hub repo "owner/name".

    A folder or repo holds what `save` wrote, or a model in the layout of another library, whose `config.json` one of
    `zoo.families` reads. If it has no `model.safetensors`, the weights are read from `pytorch_model.bin`, and none of
    its code is run; for a repo, the file that the Hub's bot converted in a pull request is preferred. `revision` is a
    branch, tag or commit of the Hub repo with the weights; pull requests are then ignored. With `verify` the model
    runs once, and its output must match the golden output that `save` wrote, to 1e-4 of the largest number.

    Raises ValueError for an unknown name (the message suggests the nearest one), for files that are broken, too large
    or ask for too much memory, for weights that do not fit, and with `verify` if the output differs from the golden
    one, or if there is none. Raises OSError (ConnectionError, FileNotFoundError, PermissionError) when files cannot
    be fetched or read.
    """
    name = os.fspath(name)
    source = source_of(name, revision)
    release = families.entries().get(name)
    if release is not None and release.checkpoint and release.checkpoint.label_file != CONFIG:
        source.count_download()  # the Hub counts requests for config.json, and this model requests none
    entry = entry_of(name, source)
    file, rules = weight_files(entry)
    arrays = _by_table(entry, open_files(file, functools.partial(source.path, rules=rules or ())))
    clip = assemble(entry, arrays, shapes_of(arrays), getattr(arrays, "path", name), rules)
    if has_words(clip.model):
        clip = Pretrained(with_tokenizer(clip.model, Tokenizer.of(source)), clip.state, clip.entry)
    if verify:
        try:
            path = source.path(GOLDEN)
        except FileNotFoundError:
            raise ValueError(f"{name} has no {GOLDEN} to verify it by: load it without verify=True.") from None
        verify_golden(clip, path)
    return clip


def entry_of(name: str, source: Source, *, weights: bool = True) -> Entry:
    """The entry of the model that `load(name)` loads, with its labels: a published one, or that of a `config.json`.

    With `weights=False`, labels that lie in the file of weights are left out, so that it is not downloaded.
    """
    entry = families.entries().get(name)
    if entry is None:
        return entry_from_config(source)
    assert entry.checkpoint is not None, f"{name} is published and has no checkpoint"
    labels_in_weights = entry.checkpoint.label_file == entry.checkpoint.file
    return with_labels(entry, source) if weights or not labels_in_weights else entry


def weight_files(entry: Entry) -> tuple[str | tuple[str, ...], Sequence[Rule] | None]:
    """The files that hold an entry's weights, and the rules that rename them to our names; None if they have ours."""
    if entry.checkpoint is None:
        return WEIGHTS, None
    return entry.checkpoint.file, families.rules(entry.checkpoint.table)


def _by_table(entry: Entry, arrays: ArraysByName) -> ArraysByName:
    """The arrays, renamed to the keys of the entry's table if those differ from the file's own."""
    names = entry.checkpoint and families.names(entry.checkpoint.table, shapes_of(arrays))
    return arrays if names is None else View({name: (arrays, key) for name, key in names.items()})


def assemble(
    entry: Entry,
    arrays: ArraysByName,
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
    rules: Sequence[Rule] | None = None,
) -> Pretrained:
    """The entry's model with the arrays of the file `where`, whose names are ours, or become ours by `rules`.

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
    """The entry's skeleton, and for each of its arrays the name of the file's array that fills it, and the rule.

    Raises ValueError for a model that is too large, and for arrays that are missing, surplus or of a wrong shape; the
    message names the file `where` and the first of them.
    """
    faults: list[str] = []
    sources = {name: (name, None) for name in shapes}
    if rules is not None:
        sources, faults = rename(shapes, rules)
    moved_shapes = {
        name: shapes[key] if rule is None else rule.moved(shapes[key]) for name, (key, rule) in sources.items()
    }
    model, state = skeleton(entry)
    model_shapes = {name: leaf.shape for name, leaf in named_leaves(model, state).items()}
    check_size(model_shapes, entry.name)
    check(moved_shapes, model_shapes, where, faults)
    return model, state, sources
