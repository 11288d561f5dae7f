"""A recipe: the model and every number that its training depends on, as frozen dataclasses.

A file with one `recipe = Recipe(...)` is a recipe of the command line, `audax-train FILE.py DATA OUT`, as those in
`train/recipes` are by name; every field is an option there, `--optimizer.learning-rate 1e-3`.
"""

import dataclasses
import functools
import importlib.util
import inspect
import json
import math
import pathlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx

import zoo

from . import recipes
from .objectives import Supervised


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained: a model with random weights, or one from the zoo."""

    frontend: dict = dataclasses.field(default_factory=dict)
    """`{"type": NAME, ...}` from `audax_eqx.frontends` with its options, as in `zoo.Entry`."""
    network: dict = dataclasses.field(default_factory=dict)
    """The same from `audax_eqx.networks`."""
    head: dict = dataclasses.field(default_factory=lambda: {"type": "Classifier"})
    """The same from `audax_eqx.models`: what the embedding is trained for."""
    dropout: float = 0.0
    """Rate in front of a classifier's head."""
    start: str | None = None
    """A name of the zoo, a folder or a Hub repo to start from, with a fresh head, instead of frontend and network."""
    layers: Literal["last", "weighted"] = "last"
    """What the head hears of a Transformer that it starts from: the last layer, or a learned sum of all."""
    lora: int = 0
    """Rank of the adapters beside every `Linear` of the network, of which then they alone are trained; 0 for none."""
    paper: str | None = None
    """Where the architecture is described."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Which clips are trained on, and how they become batches."""

    seconds: float
    """Length of a crop; the model's native length."""
    batch: int = 256
    """Examples of a step, over all devices and hosts."""
    hold_out: str | None = None
    """The manifest's column that says which clips are kept for evaluation; None trains on all clips."""
    held_out: tuple[str, ...] = ()
    """That column's values of the clips that are kept; none without a column."""
    hold_out_share: float = 0.0
    """Instead of a column, the share of the recordings that is kept, of all labels alike and by the files' names."""
    balanced: bool = False
    """Whether rare labels are drawn as often as frequent ones."""
    threads: int | None = None
    """Threads that decode; None for as many as there are cores."""

    def __post_init__(self):
        if not 0 <= self.hold_out_share < 1:
            raise ValueError(f"data.hold_out_share is a share from 0 to below 1, got {self.hold_out_share}.")
        if self.hold_out_share:  # so that one option does for a recipe that names a column
            object.__setattr__(self, "hold_out", None)
        if self.hold_out is None:  # so that one option trains a recipe on all clips
            object.__setattr__(self, "held_out", ())

    @property
    def holds_out(self) -> bool:
        """Whether clips are kept for evaluation."""
        return self.hold_out is not None or self.hold_out_share > 0

    @property
    def clips_held_out(self) -> str:
        """Which they are, in words."""
        if self.hold_out_share:
            return f"of {self.hold_out_share:g} of the recordings, drawn by their names"
        return f"whose {self.hold_out} is {', '.join(self.held_out)}"


class Optimizer(eqx.Module):
    """AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101), or SGD with a momentum of `b1`, and the schedule.

    Weight decay leaves out norms, biases, layer scale, position embeddings and all parameters of a frontend.
    """

    learning_rate: float
    """The highest rate for a batch of 256; it grows with the batch (Goyal et al., 2017, arXiv:1706.02677)."""
    method: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    """After the linear warm-up: a cosine to zero; or times `decay` every `decay_epochs`, at once or continuously."""
    warmup: float = 0.0
    """In epochs."""
    decay: float = 0.1
    decay_epochs: float = 30.0
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.999
    clip: float = 1.0
    """Largest global norm of the gradient; 0 for no clipping."""
    ema: float = 0.0
    """Decay of a moving average of weights and statistics, which is evaluated and saved instead of them; 0 for none.

    The first steps average less: the decay of step n is at most (1 + n) / (10 + n)."""
    freeze: tuple[str, ...] = ()
    """Patterns of field paths that are not trained, as "network.*"; modules under them run in inference mode."""
    rates: tuple[tuple[str, float], ...] = ()
    """Factors of the learning rate by pattern, the first that matches counts, as ("head.*", 10.0)."""


@dataclasses.dataclass(frozen=True)
class Run:
    """How long, how precisely, and what is kept of it."""

    epochs: float = 50.0
    steps: int | None = None
    """Instead of epochs."""
    accumulate: int = 1
    """Parts of a batch that are computed one after the other; BatchNorm and negatives see one part."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What network and head compute in; parameters, frontend, norms' statistics and losses are float32."""
    evaluate: float = 1.0
    """Epochs between evaluations on the clips held out."""
    checkpoint: float = 1.0
    """Epochs between checkpoints; one is made at the end and at a signal too."""
    keep: int = 2
    """Checkpoints that are kept; the best model by `best` is kept beside them."""
    best: str | None = None
    """The metric that the best model has the most of: accuracy, mAP, AUC; None for the first that there is."""
    patience: int = 0
    """Evaluations in a row without a better `best` after which the run ends; 0 for none, to the end in any case."""
    log: int = 50
    """Steps between lines of the log."""
    profile: int = 0
    """Steps, from the tenth on, to write a profile of for TensorBoard and Perfetto."""
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run but for the data's folder.

    `objective(model, state, batch, keys) -> (loss, state)` is one of `train.objectives` or a function of your own.
    """

    name: str
    model: Model
    data: Data
    optimizer: Optimizer
    objective: Callable = dataclasses.field(default_factory=Supervised)
    run: Run = dataclasses.field(default_factory=Run)

    def __post_init__(self):
        run, ema = self.run, self.optimizer.ema
        counts = {
            "data.batch": self.data.batch,
            "run.accumulate": run.accumulate,
            "run.log": run.log,
            "run.keep": run.keep,
            "run.steps": 1 if run.steps is None else run.steps,
        }
        if low := [f"{name} {count}" for name, count in counts.items() if count < 1]:
            raise ValueError(f"{self.name} has {', '.join(low)}: they count from 1.")
        if not (0 < self.data.seconds < math.inf and 0 < run.epochs < math.inf and 0 <= ema < 1):
            raise ValueError(
                f"{self.name} needs crops of some seconds, some epochs and an average's decay from 0 to below 1, got "
                f"{self.data.seconds}, {run.epochs} and {ema}."
            )
        if self.data.hold_out is not None and not self.data.held_out:
            raise ValueError(
                f"{self.name} holds out clips by their column {self.data.hold_out!r} and by no value of it: give "
                "`data.held_out`, or None as `data.hold_out` to train on all clips."
            )
        if run.patience < 0 or (run.patience and not self.data.holds_out):
            raise ValueError(
                f"{self.name} has a patience of {run.patience}: it is a number of evaluations, 0 for none, and takes "
                "clips to evaluate on, `data.hold_out` or `data.hold_out_share`."
            )
        if not 0 <= self.optimizer.learning_rate < math.inf:
            raise ValueError(
                f"{self.name} has the learning rate {self.optimizer.learning_rate}: it is a number of at least 0."
            )
        chosen = self.model.frontend or self.model.network or self.model.dropout or self.model.paper
        if self.model.start is not None and (chosen or self.model.head != Model().head):
            raise ValueError(
                f"{self.name} starts from {self.model.start}, which brings its frontend, network, head, dropout and "
                "paper: leave them out."
            )
        if self.model.start is None and self.model.layers != "last":
            raise ValueError(
                f"{self.name} has model.layers without a model to start from: give `model.start`, or as the network "
                '{"type": "WeightedLayers", "network": ...}.'
            )
        if self.model.lora < 0 or (self.model.lora and self.model.start is None):
            raise ValueError(
                f"{self.name} has adapters of rank {self.model.lora}: the rank is at least 1, or 0 for none, and they "
                "are put into a pretrained model, `model.start`."
            )
        if self.model.start is None and not (self.model.frontend and self.model.network):
            raise ValueError(
                f"{self.name} needs a model: give `model.start`, a name of the zoo or a folder, or frontend and "
                "network."
            )

    @property
    def task(self) -> str:
        """What the objective teaches: multiclass unless it has another `task`."""
        return getattr(self.objective, "task", "multiclass")

    def total_steps(self, examples: int) -> int:
        """Steps of the whole run over so many examples an epoch."""
        return self.run.steps or max(1, math.ceil(self.run.epochs * examples / self.data.batch))

    def steps(self, epochs: float, examples: int) -> int:
        """So many epochs in steps, at least one."""
        return max(1, round(epochs * examples / self.data.batch))

    def to_json(self) -> str:
        """Every number of it: two runs with the same text are the same run."""
        fields = dataclasses.asdict(self) | {"objective": _described(self.objective)}
        return json.dumps(fields, indent=2, default=repr) + "\n"

    def entry(self, labels: tuple[str, ...]) -> zoo.Entry:
        """The zoo's description of the model; `labels` are the data's. Raises ValueError where it is none."""
        task: Any = self.task  # which an own objective may spell as it likes: Entry tells
        contrastive = task == "contrastive"
        if self.model.start is not None:
            head = {} if contrastive else {"classes": len(labels), "labels": labels}
            return zoo.info(self.model.start).finetuned(
                name=self.name, task=task, window=self.data.seconds, layers=self.model.layers, **head
            )
        return zoo.Entry(
            name=self.name, frontend=self.model.frontend, network=self.model.network, model=self.model.head,
            classes=0 if contrastive else len(labels), labels=() if contrastive else labels, task=task,
            window=self.data.seconds, dropout=self.model.dropout, license="Apache-2.0",
            source="trained with audax-train", paper=self.model.paper,
        )  # fmt: skip


def _described(objective: Any) -> Any:
    """The objective's numbers if it is a dataclass, its source if it is a function: what it computes, in JSON."""
    if dataclasses.is_dataclass(objective) and not isinstance(objective, type):
        common = {"type": type(objective).__qualname__, "task": getattr(objective, "task", "multiclass")}
        return common | dataclasses.asdict(objective)
    if isinstance(objective, functools.partial):
        return {"partial": _described(objective.func), "args": list(objective.args), "keywords": objective.keywords}
    try:
        return inspect.getsource(objective)
    except (TypeError, OSError):  # typed in, or made by a class: by its name then
        return getattr(objective, "__qualname__", type(objective).__qualname__)


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__))


def find(name: str) -> tuple[Recipe, str]:
    """The recipe of that name in `train/recipes`, or in the Python file of that path, and what the file says of it.

    Raises ValueError for anything else, and for a file without a `recipe = Recipe(...)`.
    """
    path = pathlib.Path(name)
    if name in names():
        path = pathlib.Path(recipes.__path__[0]) / f"{name}.py"
        module = importlib.import_module(f"{recipes.__name__}.{name}")
    elif path.suffix == ".py" and path.is_file():
        spec = importlib.util.spec_from_file_location(f"_recipe_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        raise ValueError(f"There is no recipe {name!r}: give a Python file, or one of {', '.join(names())}.")
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{path} has no `recipe = Recipe(...)` at its top level.")
    return recipe, module.__doc__ or recipe.name
