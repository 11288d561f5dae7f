"""An entry of the zoo: all that rebuilds a model and tells where it comes from, as pure data."""

import dataclasses
import functools
import inspect
import json
from collections.abc import Mapping
from typing import Any, Literal

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from audax_eqx import AbstractFrontend, AbstractNetwork, frontends, networks
from audax_eqx.models import Classifier


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A foreign checkpoint on the Hub: its files, and the rename table in `zoo._tables` that reads the weights.

    `label_file` is a CSV with the columns `index` and `display_name`.
    """

    repo: str
    file: str
    label_file: str
    table: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model as data. `config.json` in a model's folder holds exactly these fields.

    - `frontend`, `network`: `{"type": NAME, ...}`, a name from `audax_eqx.frontends` or `.networks` and its options.
    - `task`: "multiclass" (softmax over labels) or "multilabel" (a sigmoid each).
    - `window`: the native length in seconds: what it was trained on, and how long recordings are cut.
    - `metrics`: `{"dataset", "metric", "value", "source"}` each; `source` says whose measurement it is.
    - `checkpoint`: where foreign weights lie; None for weights in this project's own layout.
    """

    name: str
    frontend: Mapping[str, Any]
    network: Mapping[str, Any]
    classes: int
    task: Literal["multiclass", "multilabel"]
    window: float
    labels: tuple[str, ...] = ()
    dropout: float = 0.0
    license: str | None = None
    source: str | None = None
    paper: str | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    checkpoint: Checkpoint | None = None

    def __post_init__(self):
        rate = self.frontend.get("sample_rate")
        if not (isinstance(rate, int) and rate > 0 and self.classes > 0 and self.window > 0):
            raise ValueError(
                f"{self.name} needs a frontend with a sample_rate in Hz, classes and a window of some seconds, got "
                f"{rate}, {self.classes} and {self.window}."
            )
        if self.labels and len(self.labels) != self.classes:
            raise ValueError(
                f"{self.name} has {self.classes} classes and {len(self.labels)} labels: give one label a class."
            )

    def __hash__(self) -> int:
        return hash((self.name, self.classes))

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.frontend["sample_rate"]


def to_json(entry: Entry) -> str:
    """The text of `config.json`: every field that is set."""
    fields = {key: value for key, value in dataclasses.asdict(entry).items() if value not in (None, (), [])}
    return json.dumps(fields, indent=2) + "\n"


def from_json(text: str, where: str) -> Entry:
    """The entry in the text of a `config.json`; raises ValueError that names `where` for anything but an Entry."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}).") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{where} holds a {type(fields).__name__}, not the fields of a zoo.Entry.")
    known = {field.name: field for field in dataclasses.fields(Entry)}
    missing = [name for name, field in known.items() if field.default is dataclasses.MISSING and name not in fields]
    unknown = sorted(set(fields) - set(known) | ({"checkpoint"} & set(fields)))
    if missing or unknown:
        raise ValueError(
            f"{where} is not the config.json of an audax-eqx model: missing {missing or 'nothing'}, "
            f"unknown {unknown or 'nothing'}."
        )
    try:
        return Entry(**_tuples(fields))
    except TypeError:
        given = {name: value for name, value in fields.items() if name != "labels"}
        raise ValueError(f"{where} has a field of the wrong type; zoo.Entry documents them: {given}.") from None


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at every depth."""
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def create(entry: Entry, *, key: PRNGKeyArray) -> tuple[Classifier, eqx.nn.State]:
    """The entry's model with random weights, in training mode, and its State."""
    return eqx.nn.make_with_state(_build)(entry, key)


def skeleton(entry: Entry) -> tuple[Classifier, eqx.nn.State]:
    """What `create` makes, with `jax.ShapeDtypeStruct` leaves: nothing is computed or allocated."""
    return eqx.filter_eval_shape(create, entry, key=jax.random.key(0))


def _build(entry: Entry, key: PRNGKeyArray) -> Classifier:
    network_key, head_key = jax.random.split(key)
    frontend = _construct(frontends, AbstractFrontend, entry.frontend, entry.name)
    network = _construct(networks, AbstractNetwork, entry.network, entry.name, key=network_key)
    return Classifier(frontend, network, entry.classes, dropout=entry.dropout, key=head_key)


def _construct(registry, abstract: type, description: Mapping[str, Any], name: str, **keywords):
    options = dict(description)
    kind = options.pop("type", None)
    known = {each: made for each, made in vars(registry).items() if _constructs(made, abstract)}
    if kind not in known:
        choices = ", ".join(sorted(known))
        raise ValueError(f"{name} names {kind!r}, which is not in {registry.__name__}: it has {choices}.")
    constructor = known[kind]
    try:
        inspect.signature(constructor).bind(**options, **keywords)
    except TypeError as error:
        raise ValueError(f"{name} gives options that {kind} does not take: {error}.") from None
    try:
        return constructor(**options, **keywords)
    except TypeError:
        raise ValueError(f"{name} gives {kind} an option of the wrong type: {options}.") from None


def _constructs(constructor: Any, abstract: type) -> bool:
    made = constructor.func if isinstance(constructor, functools.partial) else constructor
    return isinstance(made, type) and issubclass(made, abstract)
