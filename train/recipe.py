"""A recipe: the model and every number that its training depends on, as frozen dataclasses.

The command line takes a recipe as a Python file with `recipe = Recipe(...)`, `audax-train FILE.py DATA OUT`, or as the
name of a file in `train/recipes`. Every field is an option of the command, `--optimizer.learning-rate 1e-3`.
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
    """The model that is trained: one with random weights, or one from the zoo."""

    frontend: dict = dataclasses.field(default_factory=dict)
    """The frontend, `{"type": NAME, ...}` from `audax_eqx.frontends` with its options, as in `zoo.Entry`."""
    network: dict = dataclasses.field(default_factory=dict)
    """The network in the same form, from `audax_eqx.networks`."""
    head: dict = dataclasses.field(default_factory=lambda: {"type": "Classifier"})
    """The head in the same form, from `audax_eqx.models`: "Classifier", "COLA" or "SimCLR"."""
    dropout: float = 0.0
    """The rate of dropout before the head of a classifier."""
    start: str | None = None
    """The model to start from instead of a frontend and a network: a name of the zoo, a folder or a Hub repo. It gets a
    fresh head."""
    layers: Literal["last", "weighted"] = "last"
    """The input of the head behind a Transformer from `start`: the last layer, or a learned sum of all layers."""
    lora: int = 0
    """The rank of the adapters beside every `Linear` of the network, which trains them alone; 0 for no adapters."""
    paper: str | None = None
    """The paper that describes the architecture."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The clips that are trained on, and how they become batches."""

    seconds: float
    """The length of a crop, which becomes the native length of the model."""
    batch: int = 256
    """The number of examples in a step, over all devices and hosts."""
    hold_out: str | None = None
    """The column of the manifest that decides which clips are held out for evaluation; None trains on all clips."""
    held_out: tuple[str, ...] = ()
    """The values of that column whose clips are held out."""
    hold_out_share: float = 0.0
    """Instead of a column, the share of the recordings that is held out: the same of each label, drawn by name."""
    balanced: bool = False
    """Whether rare labels are drawn as often as frequent ones."""
    threads: int | None = None
    """The number of threads that decode; None for one on each core."""

    def __post_init__(self):
        if not 0 <= self.hold_out_share < 1:
            raise ValueError(f"data.hold_out_share is a share from 0 to below 1, got {self.hold_out_share}.")
        if self.hold_out_share:  # so that this option suffices for a recipe that names a column
            object.__setattr__(self, "hold_out", None)
        if self.hold_out is None:  # so that `--data.hold-out None` suffices to train on all clips
            object.__setattr__(self, "held_out", ())

    @property
    def holds_out(self) -> bool:
        """Whether clips are held out for evaluation."""
        return self.hold_out is not None or self.hold_out_share > 0

    @property
    def clips_held_out(self) -> str:
        """The clips that are held out, in words that follow "clips"."""
        if self.hold_out_share:
            return f"of {self.hold_out_share:g} of the recordings, drawn by their names"
        return f"whose {self.hold_out} is {', '.join(self.held_out)}"


class Optimizer(eqx.Module):
    """AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101), or SGD with a momentum of `b1`, and the schedule.

    Weight decay skips norms, biases, layer scale, position embeddings and all parameters of a frontend.
    """

    learning_rate: float
    """The peak rate for a batch of 256; it is proportional to the batch (Goyal et al., 2017, arXiv:1706.02677)."""
    method: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    """The rate after the warm-up: a cosine to zero, or a factor `decay` every `decay_epochs`, in steps or smoothly."""
    warmup: float = 0.0
    """The length of the linear warm-up, in epochs."""
    decay: float = 0.1
    decay_epochs: float = 30.0
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.999
    clip: float = 1.0
    """The largest global norm of the gradient; 0 for no clipping."""
    ema: float = 0.0
    """The decay of a moving average of weights and statistics, which is evaluated and saved; 0 for no average.

    The decay of step n is at most (1 + n) / (10 + n), so that the average soon forgets the first steps."""
    freeze: tuple[str, ...] = ()
    """Patterns of field paths, like "network.*", that are not trained; modules under them run in inference mode."""
    rates: tuple[tuple[str, float], ...] = ()
    """Factors of the learning rate by pattern, like ("head.*", 10.0); the first pattern that matches counts."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The length of the run, its precision, and what it saves."""

    epochs: float = 50.0
    """The length of the run."""
    steps: int | None = None
    """The length of the run in steps, instead of epochs."""
    accumulate: int = 1
    """The number of parts of a batch, computed one after the other; BatchNorm and negatives span one part."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The precision of network and head; parameters, frontend, statistics of norms and losses are always float32."""
    evaluate: float = 1.0
    """Epochs between evaluations on the clips held out."""
    checkpoint: float = 1.0
    """Epochs between checkpoints; the end of the run and a signal make one too."""
    keep: int = 2
    """The number of checkpoints that stay on disk; the best model is saved beside them."""
    best: str | None = None
    """The metric by which the best model is chosen: accuracy, mAP or AUC; None for the first of the task's metrics."""
    patience: int = 0
    """The number of consecutive evaluations without a better `best` after which the run ends; 0 never ends it early."""
    log: int = 50
    """Steps between lines of the log."""
    profile: int = 0
    """The number of steps, after the first ten, that are profiled for TensorBoard and Perfetto."""
    seed: int = 0
    """The seed of the initial weights, the order of the clips, and all random keys."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run without its data.

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
        if faults := [f"{name} {count}" for name, count in counts.items() if count < 1]:
            raise ValueError(f"{self.name} has {', '.join(faults)}: the smallest value is 1.")
        if not (0 < self.data.seconds < math.inf and 0 < run.epochs < math.inf and 0 <= ema < 1):
            raise ValueError(
                f"{self.name} needs crops of some seconds, some epochs and an average's decay from 0 to below 1, got "
                f"{self.data.seconds}, {run.epochs} and {ema}."
            )
        if self.data.hold_out is not None and not self.data.held_out:
            raise ValueError(
                f"{self.name} holds out clips by their column {self.data.hold_out!r} and by no value of it: give "
                "`data.held_out`, or set `data.hold_out` to None to train on all clips."
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
        parts = self.model.frontend or self.model.network or self.model.dropout or self.model.paper
        if self.model.start is not None and (parts or self.model.head != Model().head):
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
        """The task of the objective: its attribute `task`, else "multiclass"."""
        return getattr(self.objective, "task", "multiclass")

    def total_steps(self, examples: int) -> int:
        """The number of steps of the whole run, for a number of examples an epoch."""
        return self.run.steps or max(1, math.ceil(self.run.epochs * examples / self.data.batch))

    def steps(self, epochs: float, examples: int) -> int:
        """The number of steps in a number of epochs, at least one."""
        return max(1, round(epochs * examples / self.data.batch))

    def to_json(self) -> str:
        """The recipe with all its numbers as JSON: two runs with the same text and data are the same run."""
        fields = dataclasses.asdict(self) | {"objective": _describe(self.objective)}
        return json.dumps(fields, indent=2, default=repr) + "\n"

    def entry(self, labels: tuple[str, ...]) -> zoo.Entry:
        """The zoo's entry for the model; `labels` are those of the data. Raises ValueError for an invalid entry."""
        task: Any = self.task  # an objective of one's own may have a wrong one, which Entry refuses
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


def _describe(objective: Any) -> Any:
    """What the objective computes, for JSON: the numbers of a dataclass, or the source of a function."""
    if dataclasses.is_dataclass(objective) and not isinstance(objective, type):
        common = {"type": type(objective).__qualname__, "task": getattr(objective, "task", "multiclass")}
        return common | dataclasses.asdict(objective)
    if isinstance(objective, functools.partial):
        return {"partial": _describe(objective.func), "args": list(objective.args), "keywords": objective.keywords}
    try:
        return inspect.getsource(objective)
    except (TypeError, OSError):  # there is no source for an interactive function or for an instance: take its name
        return getattr(objective, "__qualname__", type(objective).__qualname__)


def names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__))


def find(name: str) -> tuple[Recipe, str]:
    """The recipe of that name in `train/recipes`, or in the Python file at that path, and the docstring of the file.

    Raises ValueError for any other name, and for a file without `recipe = Recipe(...)`.
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
