"""An entry of the zoo: pure data from which a model is rebuilt, with the model's origin."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from audax_eqx import models

from ._files import line, parse_json

Task = Literal["multiclass", "multilabel", "contrastive", "embedding"]
TASKS = {
    "Classifier": ("multiclass", "multilabel"),
    "Encoder": ("embedding",),
}  # others are contrastive
LENGTH = 1000  # of a string, or of a list other than the labels
HUB_PAGE = re.compile(r"https://huggingface\.co/(?!datasets/|papers/|spaces/)([\w.-]+/[\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A foreign checkpoint on the Hub: its files, and the rename table of a family that reads the weights.

    `file` has the weights. If there are several files, the key of each array begins with the name of its file, without
    the suffix, and a dot.

    `label_file` is a CSV with the columns `index` and `display_name`. It is "config.json" where the repo describes its
    own model, labels included, and it equals `file` where that is a torch file with a `label_dict`. None means no
    labels. The file lies in `label_repo`, or in `repo` if `label_repo` is None. `license` is the licence that the
    repo's card states, if that differs from the entry's.
    """

    repo: str
    table: str
    file: str | tuple[str, ...] = "model.safetensors"
    label_file: str | None = None
    label_repo: str | None = None
    license: str | None = None


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """The output for a recording on the Hub that a model's authors published.

    The `repo` of a data set is "datasets/owner/name". `logits` are those of the first classes; `classes` are all
    classes whose probability exceeds `threshold`.
    """

    repo: str
    file: str
    logits: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()
    threshold: float = 0.5


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model as data. `config.json` in a model's folder holds these fields.

    - `frontend`, `network`, `model`: `{"type": NAME, ...}`, which is a name and its options. The name is from
      `audax_eqx.frontends`, `.networks` or `.models`, or was registered by `zoo.register`. `WeightedLayers` and
      `XVector` contain another network, which is their option "network" in the same form. `CLAP` has a network for
      texts, which is its option "text". A `Classifier` also takes `classes` and `dropout`; other models have no
      classes.
    - `task`: "multiclass" (one softmax over all labels) or "multilabel" (one sigmoid per label); without labels,
      "contrastive" (`COLA`, `SimCLR`, `CLAP`) or "embedding" (`Encoder`).
    - `window`: the native length in seconds. The model was trained on this length, and recordings are cut into it.
    - `labels`: one per class; empty if they are in the checkpoint's repo, or if they name no sounds, like ImageNet's.
    - `metrics`: a mapping with the keys "dataset", "metric", "value" and "source" for each measurement; `source` says
      who measured.
    - `checkpoint`: where foreign weights lie; None for weights in this project's own layout.
    - `base`: the model that a fine-tuned model started from: its "name" and, if known, its "repo" on the Hub, its
      "license" and its "paper". `license` and `metrics` of the entry are then the fine-tuned model's own.
    - `origin`: the Hub repo that the model was loaded from; it is written to no file.
    """

    name: str
    frontend: Mapping[str, Any]
    network: Mapping[str, Any]
    classes: int
    task: Task
    window: float
    labels: tuple[str, ...] = ()
    dropout: float = 0.0
    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"type": "Classifier"})
    license: str | None = None
    source: str | None = None
    paper: str | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    checkpoint: Checkpoint | None = None
    base: Mapping[str, str] | None = None
    origin: str | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self):
        rate = self.frontend.get("sample_rate")
        numbers = not any(isinstance(each, bool) for each in (rate, self.classes, self.window))
        sensible = isinstance(rate, int) and rate > 0 and self.classes >= 0 and 0 < self.window < math.inf
        if not (numbers and sensible):
            raise ValueError(
                f"{self.name} needs a frontend with a sample_rate in Hz, classes and a window of some seconds, got "
                f"{rate}, {self.classes} and {self.window}."
            )
        kind = self.model.get("type")
        own = isinstance(kind, str) and kind not in dir(models)  # `create` checks that this class exists
        fits = self.task in (get_args(Task) if own else TASKS.get(str(kind), ("contrastive",)))
        if not fits or self.classifies != (self.task in TASKS["Classifier"]):
            raise ValueError(
                f"{self.name} is a {kind} with {self.classes} classes and the task {self.task!r}: a Classifier has "
                "classes and is multiclass or multilabel, other models have 0, an Encoder is embedding, and COLA and "
                "SimCLR are contrastive."
            )
        if self.labels and len(self.labels) != self.classes:
            raise ValueError(
                f"{self.name} has {self.classes} classes and {len(self.labels)} labels: give one label a class."
            )
        if self.base is not None and not ("name" in self.base and all(isinstance(v, str) for v in self.base.values())):
            raise ValueError(f"{self.name} has a base that is not a name and other strings: {dict(self.base)}.")
        for each in self.metrics:
            texts = [each.get(field) for field in ("dataset", "metric", "source")]
            whole = len(each) == 4 and all(isinstance(text, str) for text in texts)
            value = each.get("value")
            if not (whole and isinstance(value, int | float) and not isinstance(value, bool)):
                raise ValueError(
                    f"{self.name} has a metric that is not the strings dataset, metric and source, and a number value: "
                    f"{dict(each)}."
                )

    def __hash__(self) -> int:
        return hash((self.name, self.classes))

    @property
    def classifies(self) -> bool:
        """Whether the model has classes to tell apart. Other models give embeddings alone."""
        return self.classes > 0

    @property
    def sample_rate(self) -> int:
        """The sample rate of the frontend, in Hz."""
        return self.frontend["sample_rate"]

    @property
    def repo(self) -> str | None:
        """The Hub repo "owner/name" of the weights; for a fine-tuned model, of its base's weights. None if unknown."""
        if self.base is not None:
            return self.base.get("repo")
        if self.checkpoint is not None:
            return self.checkpoint.repo if "/" in self.checkpoint.repo else None  # the name of a folder has no slash
        page = HUB_PAGE.fullmatch(self.source or "")
        return page and page[1]

    def replace(self, **fields: Any) -> "Entry":
        """A copy of the entry with other fields, for example metrics that were measured later."""
        return dataclasses.replace(self, **fields)

    def finetuned(
        self,
        *,
        classes: int | None = None,
        labels: Any = None,
        task: str | None = None,
        window: float | None = None,
        layers: str = "last",
        name: str | None = None,
    ) -> "Entry":
        """The entry of a model whose training starts from this model, as `Pretrained.thaw` makes it.

        With `classes` or `labels` the new model has a new head, which is "multiclass" unless `task` says "multilabel".
        Without them it keeps the labels and the task. It keeps the licence, and it keeps the window unless the caller
        gives another. It has no metrics, and its `base` is this model. With layers="weighted" the input of the new head
        is a `WeightedLayers` of the network. Raises ValueError for arguments that contradict each other.
        """
        if task not in (None, *get_args(Task)):
            raise ValueError(f"task is one of {', '.join(get_args(Task))}, got {task!r}.")
        new = classes is not None or labels is not None
        if layers not in ("last", "weighted") or (layers == "weighted" and not new):
            raise ValueError(
                f"layers is the input of a new head, 'last' or 'weighted', got {layers!r}: 'weighted' takes classes or "
                "labels, too."
            )
        network = self.network
        if layers == "weighted" and network["type"] != "WeightedLayers":
            network = {"type": "WeightedLayers", "network": dict(network)}
        if labels is not None:
            labels = checked_labels(labels)
            classes = len(labels) if classes is None else classes
        name = f"{self.name.rpartition('/')[2]}_finetuned" if name is None else name
        facts = {"name": self.name, "repo": self.origin or self.repo, "license": self.license, "paper": self.paper}
        return dataclasses.replace(
            self,
            name=name,
            network=network,
            classes=self.classes if classes is None else classes,
            labels=labels or (() if new else self.labels),
            task=task or ("multiclass" if new else self.task),
            window=self.window if window is None else window,
            model={"type": "Classifier"} if new and self.model["type"] != "Classifier" else self.model,
            source=f"fine-tuned from {self.name}",
            paper=None,
            metrics=(),
            checkpoint=None,
            base={field: value for field, value in facts.items() if value is not None},
            origin=None,
        )


def checked_labels(labels: Any) -> tuple[str, ...]:
    """The names of classes.

    Raises ValueError for anything but names in an order, and for names that are empty, repeated or too long.
    """
    if isinstance(labels, set | frozenset | Mapping):
        raise ValueError(
            f"labels are in the order of the head's outputs, and a {type(labels).__name__} has no order: give a list, "
            "for example sorted(labels)."
        )
    names = tuple(labels) if isinstance(labels, Iterable) else ()
    if isinstance(labels, str) or not names or not all(isinstance(each, str) and each.strip() for each in names):
        raise ValueError(f'labels are the names of all classes, such as ("rain", "clock"), got {line(repr(labels))}.')
    names = tuple(map(str, names))  # NumPy's strings too
    if (longest := max(map(len, names))) > LENGTH:
        raise ValueError(f"labels have at most {LENGTH} letters each, got one of {longest}: shorten it.")
    if repeats := {each for each in names if names.count(each) > 1}:
        raise ValueError(f"labels name each class once, got {line(', '.join(sorted(repeats)))} several times.")
    return names


def to_json(entry: Entry) -> str:
    """The text of `config.json`: every field that is set. Raises ValueError for an option that JSON cannot hold."""
    fields = {key: value for key, value in dataclasses.asdict(entry).items() if value not in (None, (), [])}
    fields.pop("origin", None)
    try:
        return json.dumps(fields, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{entry.name} has a field that a file cannot hold ({line(str(error))}): its options and metrics are plain "
            "numbers, strings, True, False, None, and tuples of them."
        ) from None


def from_json(text: str, where: str) -> Entry:
    """The entry in the text of a `config.json`; raises ValueError that names `where` for anything but an Entry."""
    fields = parse_json(text, where)
    if not isinstance(fields, dict):
        raise ValueError(f"{where} holds a {type(fields).__name__}, not the fields of a zoo.Entry.")
    defaults = {each.name: (each.default, each.default_factory) for each in dataclasses.fields(Entry)}
    required_fields = [name for name, default in defaults.items() if default == (dataclasses.MISSING,) * 2]
    missing_fields = [name for name in required_fields if name not in fields]
    unknown_fields = sorted(set(fields) - set(defaults) | ({"checkpoint", "origin"} & set(fields)))
    if missing_fields or unknown_fields:
        raise ValueError(
            f"{where} is not the config.json of an audax-eqx model: missing {missing_fields or 'nothing'}, "
            f"unknown {line(str(unknown_fields or 'nothing'))}."
        )
    try:
        return Entry(**_tuples(fields))
    except (TypeError, AttributeError):
        values = str({name: value for name, value in fields.items() if name != "labels"})[:1000]
        raise ValueError(f"{where} has a field of the wrong type; zoo.Entry documents them: {values}.") from None
    except ValueError as error:
        raise ValueError(line(f"{where}: {error}", 1000)) from None


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at every depth."""
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    if isinstance(value, list):  # strings are copied without a call: a model may have a thousand labels
        return tuple(_tuples(each) if isinstance(each, list | dict) else each for each in value)
    return value
