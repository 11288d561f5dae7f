"""Names to models, and models to folders."""

import csv
import dataclasses
import difflib
import fnmatch
import os
import pathlib
import re
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import numpy as np

from audax_eqx.models import Classifier

from ._convert import rename
from ._entry import Entry, from_json, skeleton, to_json
from ._pretrained import Pretrained
from ._weights import Arrays, atomic, check, fill, named_leaves, write

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PACKAGED = pathlib.Path(__file__).parent / "weights"


def list_models(pattern: str = "*") -> list[str]:
    """The names that `load` knows, those that match the shell pattern, sorted."""
    return sorted(fnmatch.filter([*_published(), *packaged()], pattern))


def packaged() -> list[str]:
    """The names of the models that come with the package and need no network."""
    return sorted(path.parent.name for path in PACKAGED.glob(f"*/{CONFIG}"))


def info(name: str | os.PathLike, *, revision: str | None = None) -> Entry:
    """What is known of a model, without its weights. Takes the names that `load` takes, and raises as it does."""
    name = os.fspath(name)
    return _published()[name] if name in _published() else _config(_folder(name, revision)(CONFIG))


def load(name: str | os.PathLike, *, revision: str | None = None) -> Pretrained:
    """The pretrained model `name`: a name of `list_models()`, a folder that `save` wrote, or a Hub repo "owner/name"
    that holds the files of such a folder. `revision` is the Hub's: a branch, a tag or a commit.

    Raises ValueError for an unknown name, with the nearest one, and for weights that do not fit, and OSError
    (ConnectionError, FileNotFoundError, PermissionError) when files cannot be had.
    """
    name = os.fspath(name)
    if name in _published():
        return _load_checkpoint(_published()[name], revision)
    return _load_own(_folder(name, revision))


def save(
    folder: str | os.PathLike,
    model: Classifier,
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


def _load_own(fetch: Callable[[str], pathlib.Path]) -> Pretrained:
    """A model in this project's own layout."""
    entry = _config(fetch(CONFIG))
    arrays = Arrays(fetch(WEIGHTS))
    model, state = skeleton(entry)
    check(arrays.shapes, {name: leaf.shape for name, leaf in named_leaves(model, state).items()}, arrays.path)
    return _pretrained(*fill(model, state, arrays.__getitem__), entry)


def _load_checkpoint(entry: Entry, revision: str | None) -> Pretrained:
    """A foreign checkpoint, by its rename table."""
    from ._tables import TABLES  # as _published does

    checkpoint = entry.checkpoint
    assert checkpoint is not None, f"{entry.name} is published and has no checkpoint"
    arrays = Arrays(_fetch(checkpoint.repo, checkpoint.file, revision))
    entry = dataclasses.replace(entry, labels=_labels(_fetch(checkpoint.repo, checkpoint.label_file, revision)))
    names, faults = rename(arrays, TABLES[checkpoint.table])
    shapes = {name: rule.moved(arrays.shapes[key]) for name, (key, rule) in names.items()}
    model, state = skeleton(entry)
    wanted = {name: leaf.shape for name, leaf in named_leaves(model, state).items()}
    check(shapes, wanted, arrays.path, faults)

    def value(name: str) -> np.ndarray:
        key, rule = names[name]
        return rule.move(arrays[key])

    return _pretrained(*fill(model, state, value), entry)


def _pretrained(model: Classifier, state: eqx.nn.State, entry: Entry) -> Pretrained:
    return Pretrained(eqx.nn.inference_mode(model), state, entry)


def _fetch(repo: str, file: str, revision: str | None) -> pathlib.Path:
    from ._hub import fetch  # huggingface_hub takes long to import, and only models from the Hub need it

    return fetch(repo, file, revision, packaged())


def _existing(path: pathlib.Path) -> pathlib.Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no {path.name}: a model's folder has {CONFIG} and {WEIGHTS}.")
    return path


def _config(path: pathlib.Path) -> Entry:
    return from_json(path.read_text(encoding="utf-8"), str(path))


def _labels(path: pathlib.Path) -> tuple[str, ...]:
    """AudioSet's label file: index, mid, display_name."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["index"]))
    return tuple(row["display_name"] for row in rows)


def _published() -> dict[str, Entry]:
    from ._entries import ENTRIES  # checking their types on import would take a sixth of it

    return {entry.name: entry for entry in ENTRIES}
