"""What a family needs to read the `config.json` of others, and their files of weights."""

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
"""Fields of transformers' config.json and preprocessor_config.json on which no output depends."""
TRAINING = (
    r".*(dropout|layerdrop|_token_ids?)|(no_)?mask_.*|(init|initializer)_.*|gradient_checkpointing|apply_spec_augment"
)
"""A pattern of fields of speech models that matter in training and to a decoder alone."""
UNNAMED = {"0": "LABEL_0", "1": "LABEL_1"}  # which transformers leaves out
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
class Source:
    """A file of weights to convert, and what its owner says of it; None and nothing is what nobody said.

    - `format`: "safetensors", "torch", "tensorflow" or "flax".
    - `arrays`: by key, each read when it is asked for; `shapes`: known without reading them.
    - `settings`: what stands beside the arrays of a torch file, as `zoo.arrays` gives it; of the whole file.
    - `frontend`, `network`: options that stand in place of those that the family finds.
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
        """How many numbers there are in place of {} in keys that begin with `path`: "blocks.{}." say."""
        before, _, after = path.partition("{}")
        numbers = {key[len(before) :].partition(".")[0] for key in self.shapes if key.startswith(before)}
        return sum(any(key.startswith(f"{before}{each}{after}") for key in self.shapes) for each in numbers)


@dataclasses.dataclass(frozen=True)
class Recognised:
    """What a family makes of a file: the entry, and the rules for its arrays.

    - `files`: where the model lies in several files of one folder, the names of all of them; then the rules are for
      keys that begin with the name of a file, as those of `Checkpoint.file` are.
    - `names`: where it is given the rules are for its keys, each of which stands for the file's own key.
    """

    entry: Entry
    rules: Sequence[Rule]
    files: tuple[str, ...] = ()
    names: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """A model of ours as a family's models are on the Hub.

    - `config`, `extractor`: what its config.json and its preprocessor_config.json say.
    - `arrays`: ours, which the rules of `table` make of theirs; of several keys those with the words `prefer`.
    - `undo`: by the ends of their keys the inverse of what moves an array, where the move alone does not tell it.
    """

    config: Mapping[str, Any]
    extractor: Mapping[str, Any]
    arrays: ArraysByName
    table: str
    prefer: tuple[str, ...] = ()
    undo: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def require(options: Mapping[str, Any], name: str, **wanted: Any) -> None:
    """Raises ValueError for an option of a model `name` that transformers cannot be told."""
    for option, value in wanted.items():
        if options[option] != value:
            given = line(repr(options[option]))
            raise ValueError(
                f"transformers computes {name} with the {option} {value!r} alone, and this model has {given}: save it "
                "without layout."
            )


def labelled(entry: Entry) -> dict[str, Any]:
    """The fields of transformers' config.json for an entry's classes."""
    labels = entry.labels or tuple(f"LABEL_{index}" for index in range(entry.classes))
    kind = {"multiclass": "single_label_classification", "multilabel": "multi_label_classification"}[entry.task]
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": kind,
    }


def projected(entry: Entry, arrays: ArraysByName, width: int) -> tuple[ArraysByName, int]:
    """The arrays of a classifier with a projection, and its width; one without gets one that changes nothing."""
    if entry.model["projection"] is not None:
        return arrays, entry.model["projection"]
    own = {"projection.weight": np.eye(width, dtype=np.float32), "projection.bias": np.zeros(width, np.float32)}
    return dict(arrays) | own, width


def their_activation(name: str) -> str:
    """transformers' name of an activation. Raises ValueError for one that the zoo does not read from there."""
    theirs = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if name not in theirs:
        raise ValueError(f"transformers has no activation {name!r} there: save the model without layout.")
    return theirs[name]


def like(published: Entry, classes: int) -> Entry:
    """The entry of a file that has the arrays of a published model, but for the classes: with others it was trained on
    by somebody else, whose licence and labels are not known.
    """
    if classes == published.classes:
        return published
    own = {"license": None, "source": None, "checkpoint": None, "labels": ()}
    return dataclasses.replace(published, classes=classes, task="multiclass", **own)


def refuse(
    name: str, fields: Mapping[str, Any], *, used: str, unused: str, known: Mapping[str, tuple] | None = None
) -> None:
    """Raises ValueError that names a field on which the output may depend, and which the zoo does not honour.

    The entry is made of the fields `used`; in inference no output depends on those `unused`. Both are names with spaces
    between. A field in `known` must have one of these values, which are what the zoo computes.
    """
    known = known or {}
    for field in sorted(map(str, fields)):
        value = line(repr(fields[field]))
        if field in known and fields[field] not in known[field]:
            raise ValueError(f"{name} has the {field} {value}: the zoo has {' or '.join(map(repr, known[field]))}.")
        if field not in known and field not in used.split() and field not in unused.split():
            raise ValueError(
                f"{name} has the field {line(field)} ({value}), which the zoo does not know: take it out of the file "
                "if no output depends on it."
            )


def activation(name: str, theirs: Any) -> str:
    """Our name of an activation. Raises ValueError for one that the zoo's Transformers do not have."""
    if theirs not in ACTIVATIONS:
        raise ValueError(f"{name} has the activation {line(repr(theirs))}: the zoo has {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[theirs]


def multilabel(name: str, config: Mapping[str, Any], default: bool = False) -> bool:
    """Whether a classifier's labels are told by a sigmoid each; `default` where its config.json does not say.

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
    """The fields of an `Entry` for a classifier of transformers' speech models: a projection, and a head behind it."""
    labels = id2label(name, config.get("id2label", UNNAMED))
    task = "multilabel" if multilabel(name, config) else "multiclass"
    model = {"type": "Classifier", "projection": config.get("classifier_proj_size", 256)}
    return {"model": model, "classes": len(labels), "labels": labels, "task": task}


def architecture(name: str, config: Mapping[str, Any], known: Iterable[str]) -> str:
    """Which class of transformers a model is of. Raises ValueError for one that is not among those `known`."""
    theirs = config.get("architectures") or [next(iter(known))]  # transformers leaves out what is the default
    if theirs[0] not in known:
        raise ValueError(f"{name} is a {line(repr(theirs[0]))}: the zoo reads {', '.join(known)}.")
    return theirs[0]


def matching(pattern: str, fields: Iterable[str]) -> str:
    """The fields that match the whole pattern, with spaces between, as `refuse` takes them."""
    return " ".join(field for field in fields if re.fullmatch(pattern, field))


def agree(name: str, ours: tuple[str, Any], theirs: tuple[str, Any]) -> None:
    """Raises ValueError where config.json and preprocessor_config.json say different things of one size."""
    if ours[1] != theirs[1]:
        raise ValueError(
            f"{name} has the {ours[0]} {line(repr(ours[1]))} in its config.json, and the {theirs[0]} "
            f"{line(repr(theirs[1]))} in its preprocessor_config.json: they must be equal, for the model takes what "
            "the extractor makes."
        )


def id2label(name: str, labels: Mapping[str, Any]) -> tuple[str, ...]:
    """The values of transformers' `id2label`, by number. Raises ValueError for other keys than 0, 1, ..."""
    if not labels or labels.keys() != {str(index) for index in range(len(labels))}:
        given = line(str(sorted(labels)))
        raise ValueError(f"{name} needs labels 0, 1, ... in the id2label of its config.json, got {given}.")
    return tuple(str(labels[str(index)]) for index in range(len(labels)))


def page(name: str) -> str | None:
    """The page of a repo on the Hub; None for a folder."""
    return f"https://huggingface.co/{name}" if "/" in name else None
