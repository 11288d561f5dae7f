"""Names to models, and models to folders."""

import csv
import dataclasses
import difflib
import fnmatch
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import equinox as eqx
import numpy as np

from ._convert import Rule, rename
from ._entry import Entry, Model, from_json, skeleton, to_json
from ._foreign import describe, foreign
from ._pretrained import Pretrained
from ._weights import Arrays, atomic, check, fill, named_leaves, write

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PACKAGED = pathlib.Path(__file__).parent / "weights"
DEFAULT = "convnext_esc10"  # a packaged model


def list_models(pattern: str = "*") -> list[str]:
    """The names that `load` knows, those that match the shell pattern, sorted."""
    return sorted(fnmatch.filter([*_published(), *packaged()], pattern))


def packaged() -> list[str]:
    """The names of the models that come with the package and need no network."""
    return sorted(path.parent.name for path in PACKAGED.glob(f"*/{CONFIG}"))


def info(name: str | os.PathLike, *, revision: str | None = None) -> Entry:
    """What is known of a model, without its weights. Takes the names that `load` takes, and raises as it does."""
    name = os.fspath(name)
    return _published()[name] if name in _published() else _described(name, _folder(name, revision))


def load(name: str | os.PathLike, *, revision: str | None = None) -> Pretrained:
    """The pretrained model `name`: a name of `list_models()`, a folder, or a Hub repo "owner/name".

    A folder or repo holds what `save` wrote, or a model of transformers' `ASTForAudioClassification`, or ImageNet
    weights of timm's ResNet, EfficientNet or ConvNeXt, whose first convolution is summed up for one channel: they are a
    start for fine-tuning. `revision` is the Hub's: a branch, a tag or a commit.

    Raises ValueError for an unknown name, with the nearest one, and for weights that do not fit, and OSError
    (ConnectionError, FileNotFoundError, PermissionError) when files cannot be had.
    """
    name = os.fspath(name)
    if name in _published():
        entry = _published()[name]
        assert entry.checkpoint is not None, f"{name} is published and has no checkpoint"
        fetch = functools.partial(_fetch, entry.checkpoint.repo, revision=revision)
        entry = _labelled(entry, fetch)
    else:
        fetch = _folder(name, revision)
        entry = _described(name, fetch)
    if entry.checkpoint is None:
        arrays = Arrays(fetch(WEIGHTS))
        return assemble(entry, arrays, arrays.shapes, arrays.path)
    from ._tables import TABLES  # as _published does

    arrays = Arrays(fetch(entry.checkpoint.file))
    return assemble(entry, arrays, arrays.shapes, arrays.path, TABLES[entry.checkpoint.table])


def assemble(
    entry: Entry,
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
    rules: Sequence[Rule] | None = None,
) -> Pretrained:
    """The entry's model with the arrays of the file `where`, which are ours, or become ours by `rules`.

    Raises ValueError that lists every array that is missing, surplus or of another shape than the model's.
    """
    faults: list[str] = []
    sources = {name: (name, None) for name in shapes}
    if rules is not None:
        sources, faults = rename(shapes, rules)
    found = {name: shapes[key] if rule is None else rule.moved(shapes[key]) for name, (key, rule) in sources.items()}
    model, state = skeleton(entry)
    check(found, {name: leaf.shape for name, leaf in named_leaves(model, state).items()}, where, faults)

    def value(name: str) -> np.ndarray:
        key, rule = sources[name]
        return arrays[key] if rule is None else rule.move(arrays[key])

    model, state = fill(model, state, value)
    return Pretrained(eqx.nn.inference_mode(model), state, entry)


def save(
    folder: str | os.PathLike,
    model: Model,
    state: eqx.nn.State,
    entry: Entry,
    *,
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Writes `config.json` and `model.safetensors`, from which `load(folder)` gives the model back, bit by bit unless
    `dtype` is "float16", which halves the file.

    Raises ValueError when the model is not what `entry` describes or float16 does not hold it, and OSError when the
    folder cannot be made or written. What a folder held is replaced at the end, or not at all.
    """
    folder = pathlib.Path(folder)
    entry = dataclasses.replace(entry, checkpoint=None)
    leaves = named_leaves(model, state)
    wanted = {name: leaf.shape for name, leaf in named_leaves(*skeleton(entry)).items()}
    check({name: leaf.shape for name, leaf in leaves.items()}, wanted, f"The model to save as {entry.name}")
    exact = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    with np.errstate(over="ignore"):
        arrays = {name: array.astype(dtype) for name, array in exact.items()}
    if huge := [name for name in exact if np.isfinite(exact[name]).all() and np.isinf(arrays[name]).any()]:
        raise ValueError(f"float16 ends at 65504, which {', '.join(huge)} exceed: save in float32.")
    text = to_json(entry)
    if not folder.parent.is_dir():
        raise FileNotFoundError(
            f"{folder.parent} is no folder, so {folder.name} cannot be made there: create it first."
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, and a model is saved in a folder: choose another name.")
    folder.mkdir(exist_ok=True)
    with atomic(folder / CONFIG) as config, atomic(folder / WEIGHTS) as weights:
        config.write_text(text, encoding="utf-8")
        write(weights, arrays)
        weights.chmod(config.stat().st_mode)  # safetensors writes files that nobody else may read


def _folder(name: str, revision: str | None) -> Callable[[str], pathlib.Path]:
    """The function that gives the path of a file of the packaged model, the folder or the Hub repo `name`."""
    if name in packaged() or os.path.isdir(name):
        if revision is not None:
            raise ValueError(f"revision={revision!r} is a version on the Hub, and {name} is a folder: leave it out.")
        folder = PACKAGED / name if name in packaged() else pathlib.Path(name)
        return lambda file: _existing(folder / file)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return lambda file: _fetch(name, file, revision)
    if os.sep in name:
        raise FileNotFoundError(
            f"{name} is not a folder: the zoo takes a name of zoo.list_models(), a folder or a Hub repo."
        )
    near = difflib.get_close_matches(name, list_models(), n=1, cutoff=0.0)
    raise ValueError(
        f"The zoo has no model {name!r}: did you mean {near[0]!r}? zoo.list_models() names all; a folder or a Hub repo "
        '"owner/name" loads too.'
    )


def _fetch(repo: str, file: str, revision: str | None = None) -> pathlib.Path:
    from ._hub import fetch  # huggingface_hub takes long to import, and only models from the Hub need it

    return fetch(repo, file, revision, packaged())


def _existing(path: pathlib.Path) -> pathlib.Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} holds no {path.name}: a model's folder has {CONFIG} and {WEIGHTS}, and transformers' "
            "preprocessor_config.json beside its models."
        )
    return path


def _described(name: str, fetch: Callable[[str], pathlib.Path]) -> Entry:
    """The entry in the folder's or repo's `config.json`."""
    path = fetch(CONFIG)
    text = path.read_text(encoding="utf-8")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from None
    if isinstance(config, dict) and foreign(config):
        name = pathlib.Path(name).resolve().name if os.path.isdir(name) else name
        return describe(name, config, lambda file: json.loads(fetch(file).read_text(encoding="utf-8")))
    return from_json(text, str(path))


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
        case file:
            return dataclasses.replace(entry, labels=_labels(fetch(file)))


def _labels(path: pathlib.Path) -> tuple[str, ...]:
    """AudioSet's label file: index, mid, display_name."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["index"]))
    return tuple(row["display_name"] for row in rows)


def _published() -> dict[str, Entry]:
    from ._entries import ENTRIES  # checking their types on import would take a sixth of it

    return {entry.name: entry for entry in ENTRIES}
