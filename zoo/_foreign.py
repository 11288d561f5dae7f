"""Tools with which a family reads the `config.json` and the files of weights of other libraries."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ._entry import Entry
from ._files import line
from ._rules import Rule
from ._weights import ArraysByName

Shapes = Mapping[str, tuple[int, ...]]
BOOKKEEPING = """_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures
    attn_implementation auto_map chunk_size_feed_forward dtype finetuning_task id2label initializer_range label2id
    model_type name_or_path output_attentions output_hidden_states problem_type return_dict task_specific_params
    tf_legacy_loss tie_word_embeddings torch_dtype torchscript transformers_version use_cache"""
EXTRACTING = """_commit_hash _name_or_path auto_map feature_extractor_type feature_size padding_side padding_value
    processor_class return_attention_mask"""
"""Fields of transformers' config.json and preprocessor_config.json. No output depends on them."""
TRAINING = (
    r".*(dropout|layerdrop|_token_ids?)|(no_)?mask_.*|(init|initializer)_.*|gradient_checkpointing|apply_spec_augment"
)
"""A pattern of fields of speech models that matter only in training or to a decoder."""
DEFAULT_LABELS = {"0": "LABEL_0", "1": "LABEL_1"}  # transformers leaves these out of the file
ENCODER: dict[str, Any] = {"model": {"type": "Encoder"}, "classes": 0, "task": "embedding"}
"""The fields of an `Entry` for a model without a head."""
ACTIVATIONS = {  # transformers' names to ours
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """A file of weights to convert, with its owner's options. None or an empty mapping means that the owner gave none.

    - `format`: "safetensors", "torch", "tensorflow" or "flax".
    - `arrays`: by key. An array is read when it is accessed.
    - `shapes`: the shapes by key, which are known without reading the arrays.
    - `settings`: the objects beside the arrays of a torch file, as `zoo.arrays` gives them, for the whole file.
    - `frontend`, `network`: options that replace the ones that the family finds.
    """

    path: pathlib.Path
    format: str
    arrays: ArraysByName
    shapes: Shapes
    settings: Mapping[Any, Any] = dataclasses.field(default_factory=dict)
    sample_rate: int | None = None
    window: float | None = None
    model: str | None = None
    frontend: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def count(self, path: str) -> int:
        """The number of different indices that stand for {} in keys that begin with `path`, such as "blocks.{}."."""
        head, _, tail = path.partition("{}")
        numbers = {key[len(head) :].partition(".")[0] for key in self.shapes if key.startswith(head)}
        return sum(any(key.startswith(f"{head}{each}{tail}") for key in self.shapes) for each in numbers)


@dataclasses.dataclass(frozen=True)
class Recognition:
    """The result of a family for a file: the entry, and the rules for its arrays.

    - `files`: the names of all files, if the model lies in several files of one folder. The rules then apply to keys
      that begin with the name of a file, like the keys of `Checkpoint.file`.
    - `names`: a mapping to the file's own keys, or None. If it is given, the rules apply to the keys of this mapping.
    """

    entry: Entry
    rules: Sequence[Rule]
    files: tuple[str, ...] = ()
    names: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """A model of the zoo in the form that a family's models have on the Hub.

    - `config`, `extractor`: the contents of its config.json and its preprocessor_config.json.
    - `arrays`: the zoo's arrays. The rules of `table` turn the family's arrays into these.
    - `preferences`: words. If an array may have several keys, the one with these words is written.
    - `undo`: inverses of moves of arrays, by the ends of the arrays' keys, for moves that do not define their inverse.
    """

    config: Mapping[str, Any]
    extractor: Mapping[str, Any]
    arrays: ArraysByName
    table: str
    preferences: tuple[str, ...] = ()
    undo: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def require(options: Mapping[str, Any], name: str, **values: Any) -> None:
    """Raises ValueError for an option of a model `name` that transformers has no field for."""
    for option, value in values.items():
        if options[option] != value:
            text = line(repr(options[option]))
            raise ValueError(
                f"transformers computes {name} only with the {option} {value!r}, and this model has {text}: save it "
                "without layout."
            )


def patch_side(network: Mapping[str, Any], name: str) -> int:
    """The side of a network's square patches. Raises ValueError for patches of two different sides."""
    patch = network["patch"]
    if isinstance(patch, int):
        return patch
    require(network, name, patch=(patch[0], patch[0]))
    return patch[0]


def label_fields(entry: Entry) -> dict[str, Any]:
    """The fields of transformers' config.json for an entry's classes."""
    labels = entry.labels or tuple(f"LABEL_{index}" for index in range(entry.classes))
    kind = {"multiclass": "single_label_classification", "multilabel": "multi_label_classification"}[entry.task]
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": kind,
    }


def projected(entry: Entry, arrays: ArraysByName, width: int) -> tuple[ArraysByName, int]:
    """The arrays of a classifier with a projection, and its width. Without a projection, an identity is added."""
    if entry.model["projection"] is not None:
        return arrays, entry.model["projection"]
    identity = {"projection.weight": np.eye(width, dtype=np.float32), "projection.bias": np.zeros(width, np.float32)}
    return dict(arrays) | identity, width


def their_activation(name: str) -> str:
    """transformers' name of an activation. Raises ValueError for an activation without such a name."""
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if name not in names:
        raise ValueError(f"transformers has no activation {name!r} for this model: save it without layout.")
    return names[name]


def like(release: Entry, classes: int) -> Entry:
    """The entry of a file that has the arrays of a published model, but perhaps other classes.

    If the number of classes differs, somebody else fine-tuned the model, and its licence and labels are unknown.
    """
    if classes == release.classes:
        return release
    changes = {"license": None, "source": None, "checkpoint": None, "labels": ()}
    return dataclasses.replace(release, classes=classes, task="multiclass", **changes)


def refuse(
    name: str, fields: Mapping[str, Any], *, sources: str, extras: str, choices: Mapping[str, tuple] | None = None
) -> None:
    """Raises ValueError that names a field which the zoo ignores although the output may depend on it.

    The entry is made of the fields `sources`. In inference no output depends on the fields `extras`. Both are names
    separated by spaces. A field in `choices` must have one of its values there, which the zoo computes.
    """
    choices = choices or {}
    for field in sorted(map(str, fields)):
        value = line(repr(fields[field]))
        if field in choices and fields[field] not in choices[field]:
            raise ValueError(f"{name} has the {field} {value}: the zoo has {' or '.join(map(repr, choices[field]))}.")
        if field not in choices and field not in sources.split() and field not in extras.split():
            raise ValueError(
                f"{name} has the field {line(field)} ({value}), which the zoo does not know: take it out of the file "
                "if no output depends on it."
            )


def activation(name: str, value: Any) -> str:
    """The zoo's name of an activation. Raises ValueError for an activation that the zoo's Transformers lack."""
    if value not in ACTIVATIONS:
        raise ValueError(f"{name} has the activation {line(repr(value))}: the zoo has {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[value]


def multilabel(name: str, config: Mapping[str, Any], default: bool = False) -> bool:
    """Whether a classifier has a sigmoid per label; `default` if its config.json does not say.

    Raises ValueError for a model that is no classifier.
    """
    kind = config.get("problem_type")
    if kind not in (None, "single_label_classification", "multi_label_classification"):
        raise ValueError(
            f"{name} has the problem_type {line(repr(kind))}: the zoo has 'single_label_classification' or "
            "'multi_label_classification'."
        )
    return kind == "multi_label_classification" if kind else default


def projected_head(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `Entry` for transformers' classifier on a speech model: a projection and a head behind it."""
    labels = id2label(name, config.get("id2label", DEFAULT_LABELS))
    task = "multilabel" if multilabel(name, config) else "multiclass"
    model = {"type": "Classifier", "projection": config.get("classifier_proj_size", 256)}
    return {"model": model, "classes": len(labels), "labels": labels, "task": task}


def architecture(name: str, config: Mapping[str, Any], choices: Iterable[str]) -> str:
    """The transformers class of a model. Raises ValueError for a class that is not in `choices`."""
    classes = config.get("architectures") or [next(iter(choices))]  # transformers leaves out the default
    if classes[0] not in choices:
        raise ValueError(f"{name} is a {line(repr(classes[0]))}: the zoo reads {', '.join(choices)}.")
    return classes[0]


def matching(pattern: str, fields: Iterable[str]) -> str:
    """The fields that match the whole pattern, separated by spaces, as `refuse` takes them."""
    return " ".join(field for field in fields if re.fullmatch(pattern, field))


def agree(name: str, field: tuple[str, Any], other: tuple[str, Any]) -> None:
    """Raises ValueError if config.json and preprocessor_config.json disagree about one size."""
    if field[1] != other[1]:
        raise ValueError(
            f"{name} has the {field[0]} {line(repr(field[1]))} in its config.json, and the {other[0]} "
            f"{line(repr(other[1]))} in its preprocessor_config.json: they must be equal because the model takes "
            "the output of the extractor."
        )


def id2label(name: str, labels: Mapping[str, Any]) -> tuple[str, ...]:
    """The values of transformers' `id2label`, by number. Raises ValueError if its keys are not 0, 1, ..."""
    if not labels or labels.keys() != {str(index) for index in range(len(labels))}:
        keys = line(str(sorted(labels)))
        raise ValueError(f"{name} needs labels 0, 1, ... in the id2label of its config.json, got {keys}.")
    return tuple(str(labels[str(index)]) for index in range(len(labels)))


def page(name: str) -> str | None:
    """The page of a repo on the Hub; None for a folder."""
    return f"https://huggingface.co/{name}" if "/" in name else None
