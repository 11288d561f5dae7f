"""Names, folders and repos to models."""

import functools
import os
from collections.abc import Mapping, Sequence

import equinox as eqx
import numpy as np

from . import families
from ._arrays import View, open_files, shapes_of
from ._create import skeleton
from ._entry import Entry
from ._files import CONFIG, GOLDEN, WEIGHTS
from ._golden import verify as verify_golden
from ._labelled import labelled
from ._leaves import check, fill, named_leaves
from ._limits import check_size
from ._models import described
from ._pretrained import Pretrained
from ._register import Model
from ._rules import Rule, rename
from ._source import Source, source_of
from ._text import Tokenizer, has_words, with_tokenizer
from ._weights import ArraysByName


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
    source = source_of(name, revision)
    published = families.entries().get(name)
    if published is not None and published.checkpoint and published.checkpoint.label_file != CONFIG:
        source.count_download()  # for the Hub counts requests for config.json, which others ask for
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
    """What `load` loads by that name: the published entry, or the one that the source describes; labels included.

    Without `weights` they are not downloaded for labels that lie among them.
    """
    entry = families.entries().get(name)
    if entry is None:
        return described(source)
    assert entry.checkpoint is not None, f"{name} is published and has no checkpoint"
    among = entry.checkpoint.label_file == entry.checkpoint.file
    return labelled(entry, source) if weights or not among else entry


def weight_files(entry: Entry) -> tuple[str | tuple[str, ...], Sequence[Rule] | None]:
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
