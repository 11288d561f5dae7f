"""Conversion of a file of weights from another library to a folder that `zoo.load` reads."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from . import families
from ._arrays import View, open_file, open_files, shapes_of
from ._entry import Entry, checked_labels
from ._entry_labels import with_names
from ._files import line
from ._foreign import Recognition, WeightFile
from ._labels import read_labels
from ._leaves import named_leaves
from ._limits import check_entry
from ._load import assemble
from ._save import not_finite, save
from ._warn import warn_user
from ._weights import ArraysByName

TASKS, MODELS = ("multiclass", "multilabel"), ("COLA", "SimCLR")
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "backbone")
DEPTH = 4  # the largest depth of nested wrappers


def convert(
    source: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    *,
    sample_rate: int | None = None,
    window: float | None = None,
    labels: Sequence[str] = (),
    task: str | None = None,
    model: str | None = None,
    frontend: Mapping[str, Any] | None = None,
    network: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Reads a file of weights, writes a folder for `zoo.load`, and returns the folder.

    The file is safetensors, a torch file, or a checkpoint of audax, "path/to/checkpoint_123". One of `zoo.families`
    recognises the model by the keys and shapes of the arrays, which lie at the top of the file or under "model",
    "state_dict", "module" and the like. The caller gives what the arrays do not show:

    - `folder`: default: a new folder beside the file, with the file's name and `_audax_eqx`.
    - `sample_rate`: in Hz.
    - `window`: the native length in seconds.
    - `labels`: one per class. AudioSet's labels are fetched if the model has its 527 classes. AudioSet's names are also
      fetched if the file's labels are AudioSet's codes.
    - `task`: "multiclass" or "multilabel", for a classifier.
    - `model`: "SimCLR" for a SimCLR model of audax, which otherwise looks like COLA.
    - `frontend`, `network`: options that replace the recognised ones, for example `frontend={"bins": 64}`. With a
      "type" they replace the whole frontend or network.

    The folder has the licence and the paper of the published model with the same arrays. It has no metrics, because
    the file may hold other weights than the published model.

    Raises FileNotFoundError. Raises ValueError if the file has another format or is incomplete, if options contradict
    it, and if its arrays hold NaN.
    """
    path = pathlib.Path(source)
    folder = path.with_name(f"{path.name}_audax_eqx") if folder is None else pathlib.Path(folder)
    for what, choice, choices in (("task", task, TASKS), ("model", model, MODELS)):
        if choice is not None and choice not in choices:
            raise ValueError(f"convert takes the {what} {' or '.join(map(repr, choices))}, got {choice!r}.")
    format, arrays = open_file(path)
    options: dict[str, Any] = {"sample_rate": sample_rate, "window": window, "model": model}
    options["settings"] = getattr(arrays, "settings", {})
    options |= {"frontend": frontend or {}, "network": network or {}}
    part, recognition = _recognise(WeightFile(path, format, arrays, shapes_of(arrays), **options))
    entry = _entry(recognition.entry, part, folder.resolve().name, labels, task)
    arrays = _arrays(part, recognition)
    check_entry(entry, str(path))
    clip = assemble(entry, arrays, shapes_of(arrays), str(path), recognition.rules)
    if names := not_finite(named_leaves(clip.model, clip.state)):
        raise ValueError(
            f"{path} holds NaN or infinite numbers, in {names} of the model: copy or fetch it again, or convert "
            "weights from before its training diverged."
        )
    save(folder, clip.model, clip.state, entry)
    return folder


def _recognise(file: WeightFile) -> tuple[WeightFile, Recognition]:
    """The part of the file that a family recognises, and the result. Raises ValueError if no family recognises one."""
    parts = [file]
    for _ in range(DEPTH):
        for part in parts:
            if (recognition := families.recognise(part)) is not None:
                return part, recognition
        parts = [inner for part in parts for name in WRAPPERS if (inner := _inside(part, f"{name}."))]
    kinds = ", ".join(family.__name__.rpartition(".")[2] for family in families.having("recognise"))
    keys = line(", ".join(list(file.shapes)[:3]))
    raise ValueError(
        f"{file.path} holds {len(file.shapes)} arrays ({keys}, ...), whose keys are of no model that the zoo "
        f"recognises: it recognises {kinds}. If the config.json of its library lies beside it, zoo.load(folder) may "
        "read it."
    )


def _inside(file: WeightFile, prefix: str) -> WeightFile | None:
    """The arrays whose keys begin with `prefix`, under keys without the prefix; None if there are none."""
    names = {key[len(prefix) :]: (file.arrays, key) for key in file.shapes if key.startswith(prefix)}
    shapes = {name: file.shapes[key] for name, (_, key) in names.items()}
    return dataclasses.replace(file, arrays=View(names), shapes=shapes) if names else None


def _arrays(file: WeightFile, recognition: Recognition) -> ArraysByName:
    """The arrays to which the rules apply."""
    arrays = file.arrays
    if recognition.files:
        arrays = open_files(recognition.files, file.path.parent.joinpath)
    if recognition.names is not None:
        arrays = View({name: (arrays, key) for name, key in recognition.names.items()})
    return arrays


def _entry(entry: Entry, file: WeightFile, name: str, labels: Sequence[str], task: str | None) -> Entry:
    """The recognised entry with the caller's options, and without metrics, which hold for published weights."""
    if file.model not in (None, entry.model["type"]):
        kind = entry.model["type"]
        raise ValueError(f"{file.path} holds a {kind}, not the {file.model} that `model` names: leave `model` out.")
    if task is not None and not entry.classes:
        raise ValueError(f"{file.path} is a {entry.model['type']} without classes: leave the task {task!r} out.")
    parts = {}
    for part in ("frontend", "network"):
        options = dict(getattr(file, part))
        parts[part] = options if "type" in options else dict(getattr(entry, part)) | options
    rate = parts["frontend"].setdefault("sample_rate", file.sample_rate)
    if file.sample_rate not in (None, rate):
        raise ValueError(
            f"{file.path} is a model for waves at {rate} Hz, got sample_rate={file.sample_rate}: leave it out, or give "
            'all options that differ, for example frontend={"sample_rate": ..., "hop_length": ...}.'
        )
    window = entry.window if file.window is None else file.window
    entry = dataclasses.replace(entry, name=name, window=window, metrics=(), **parts)
    if task is not None:
        entry = entry.replace(task=task)
    return entry.replace(labels=checked_labels(labels) if len(labels) else _known_labels(entry))


def _known_labels(entry: Entry) -> tuple[str, ...]:
    """The entry's labels, or labels from a file on the Hub. None, with a warning, if that file is not available."""
    checkpoint = entry.checkpoint
    if entry.labels:
        return with_names(entry.labels, entry.name)
    if checkpoint is None or not (checkpoint.label_file or "").endswith(".csv"):
        return ()
    from ._repo import download_once  # imported late, because it imports the Hub's client, which takes long

    try:
        return read_labels(download_once(checkpoint.label_repo or checkpoint.repo, str(checkpoint.label_file)))
    except OSError as error:
        warn_user(
            f"{entry.name} is written without labels ({str(error).rstrip('.')}): convert it again when they can be "
            "fetched, or give labels=[...].",
        )
        return ()
