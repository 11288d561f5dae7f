"""Saves a model to a folder: its weights, and files that describe them."""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np

from audax_eqx import lora

from . import families
from ._card import card, is_generated
from ._create import skeleton
from ._entry import Entry, to_json
from ._files import CARD, CONFIG, EXTRACTOR, GOLDEN, SAVED, STAGING, TOKENIZER, WEIGHTS, settle
from ._golden import difference, golden
from ._leaves import check, named_leaves
from ._limits import check_entry
from ._load import assemble
from ._pretrained import Pretrained
from ._register import Model
from ._transformers import transformers_layout
from ._wave import check_window
from ._weights import write


def save(
    folder: str | os.PathLike,
    model: Model,
    state: eqx.nn.State,
    entry: Entry,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    layout: Literal["audax", "transformers"] = "audax",
) -> None:
    """Writes a folder from which `load(folder)` returns the same model, bit by bit unless `dtype` is "float16", which
    halves the file; the card then states the loss. The adapters of `audax_eqx.lora` are merged.

    With layout="transformers" the folder has the layout of transformers, for its `from_pretrained` and for `load`. This
    works for an AST, a CED, wav2vec 2.0 and its relatives, and a Whisper that classifies.

    - `config.json`: the entry. `model.safetensors`: the weights and the State.
    - `golden.safetensors`: a wave and the saved model's output for it, for `load(folder, verify=True)`.
    - `preprocessor_config.json`: the frontend's numbers in transformers' words, for other programs.
    - `tokenizer.json`: the tokenizer of a model with words.
    - `README.md`: a card for the Hub, unless the folder holds one that somebody wrote or changed.

    Raises ValueError if the model does not match `entry`, if its weights or outputs are NaN or infinite, if float16
    cannot hold it, and if the layout has no such model. Raises OSError if the folder cannot be made or written. If the
    process is killed at any moment, `load` finds either the old model or the new one, never a part of each.
    """
    folder = pathlib.Path(folder)
    entry = dataclasses.replace(entry, checkpoint=None)
    check_entry(entry, "The entry to save")
    check_window(entry.window, model.frontend, entry.name)
    model = lora.merge(model)
    leaves = named_leaves(model, state)
    entry_shapes = {name: leaf.shape for name, leaf in named_leaves(*skeleton(entry)).items()}
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    check(shapes, entry_shapes, f"The model to save as {entry.name}")
    _check_task(model, entry)
    exact = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    if names := not_finite(exact):
        raise ValueError(
            f"The model to save as {entry.name} holds NaN or infinite numbers in {names}: its training diverged, so "
            "save it as it was before, and train on with a lower learning rate."
        )
    with np.errstate(over="ignore"):
        arrays = {name: array.astype(dtype) for name, array in exact.items()}
    if huge := [name for name in exact if np.isfinite(exact[name]).all() and np.isinf(arrays[name]).any()]:
        raise ValueError(f"float16 ends at 65504, which {', '.join(huge)} exceed: save in float32.")
    if layout == "transformers":
        config, numbers, arrays, layout_entry = transformers_layout(entry, arrays)
        assert layout_entry.checkpoint is not None, f"{entry.name} has no table of transformers' names"
        rules = families.rules(layout_entry.checkpoint.table)
        texts = {CONFIG: json.dumps(config, indent=2) + "\n"}
    else:
        numbers, layout_entry, rules = extractor(entry, model), entry, None
        texts = {CONFIG: to_json(entry)}
    texts[EXTRACTOR] = json.dumps(numbers, indent=2) + "\n"
    if (tokenizer := getattr(model, "tokenizer", None)) is not None:
        texts[TOKENIZER] = tokenizer.text()
    if not folder.parent.is_dir():
        raise FileNotFoundError(
            f"{folder.parent} is no folder, so {folder.name} cannot be made there: create it first."
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, and a model is saved in a folder: choose another name.")
    shapes = {name: array.shape for name, array in arrays.items()}
    tensors = {WEIGHTS: arrays, GOLDEN: golden(assemble(layout_entry, arrays, shapes, str(folder), rules))}
    if not np.isfinite(tensors[GOLDEN]["output"]).all():
        raise ValueError(
            f"The model to save as {entry.name} gives NaN or infinite outputs, though its weights are finite: they "
            "have grown too large, so save it as it was before, and train on with a lower learning rate."
        )
    if not ((folder / CARD).is_file() and not is_generated((folder / CARD).read_bytes())):
        parameters = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
        loss = None
        if dtype == "float16":
            loss = difference(tensors[GOLDEN], Pretrained(eqx.nn.inference_mode(model), state, entry))
        texts[CARD] = card(entry, parameters, layout=layout, loss=loss)
    try:
        _write(folder, texts, tensors, "pt" if layout == "transformers" else "jax")
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{folder} cannot be written ({reason}): make room there, or choose another folder.") from None


def _check_task(model: Model, entry: Entry) -> None:
    """Raises ValueError for a classifier whose task differs from the entry's."""
    task = getattr(model, "task", None)
    if task not in (None, entry.task):
        raise ValueError(
            f"The head of the model to save as {entry.name} is {task}, and its entry is {entry.task}: save it with "
            f"thawed.entry, the entry that thaw returns, or make the head with thaw(..., task={entry.task!r})."
        )


def not_finite(arrays: Mapping[str, Any]) -> str:
    """The names of the first arrays with NaN or infinity in them, joined for a sentence; "" if all are finite."""
    names = [name for name, array in arrays.items() if not np.isfinite(np.asarray(array)).all()]
    more = f" and {len(names) - 3} more of {len(arrays)} arrays" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _write(
    folder: pathlib.Path,
    texts: Mapping[str, str],
    tensors: Mapping[str, Mapping[str, np.ndarray]],
    format: str,
) -> None:
    """Writes all files or none: one renaming puts them into the folder, as `existing` in `zoo/_files.py` expects."""
    folder.mkdir(exist_ok=True)
    settle(folder)
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)  # left by a save that was killed
    staging.mkdir()
    try:
        for file, text in texts.items():
            (staging / file).write_text(text, encoding="utf-8")
        for file, content in tensors.items():
            write(staging / file, content, format)
            (staging / file).chmod((staging / CONFIG).stat().st_mode)  # safetensors' are the user's alone
        staging.rename(folder / SAVED)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    settle(folder)


def extractor(entry: Entry, model: Model) -> dict[str, Any]:
    """The static numbers of the frontend, under transformers' names where it has one and under ours otherwise."""
    words = {"sample_rate": "sampling_rate", "bins": "feature_size", "frames": "max_length"}
    fields = {field.name: getattr(model.frontend, field.name) for field in dataclasses.fields(model.frontend)}
    rate = entry.sample_rate
    f_max = float(rate // 2) if fields.get("fbanks_dtype") == "float32" else rate / 2  # torchaudio's, and librosa's
    defaults = {"win_length": fields.get("n_fft"), "f_max": f_max}
    numbers = {name: defaults.get(name) if value is None else value for name, value in fields.items()}
    return {
        "feature_extractor_type": entry.frontend["type"],
        **{words.get(name, name): value for name, value in numbers.items() if isinstance(value, int | float | str)},
        "chunk_length": entry.window,  # seconds
        "n_samples": round(entry.window * entry.sample_rate),
        "padding_value": 0.0,
    }
