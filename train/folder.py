"""The folder of a run: one recipe, one dataset, and one process at a time. A run may be lengthened, but not changed."""

import contextlib
import dataclasses
import json
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from zoo.tools import atomic, busy, locked, parse_json

from .dataset import Dataset
from .recipe import Recipe
from .step import schedule

FREE = (  # fields that may change when a run is continued, because the steps so far do not depend on them
    *("data.threads", "run.epochs", "run.steps", "run.evaluate", "run.checkpoint", "run.keep", "run.log"),
    *("run.profile", "run.patience"),
)


@contextlib.contextmanager
def claim(out: pathlib.Path) -> Iterator[None]:
    """A context that creates the folder and locks it against other runs; the first host does so for all hosts.

    Raises BlockingIOError while another process trains in the folder, and ValueError for a file and for prepared data.
    """
    if (out / "dataset.json").exists():
        raise ValueError(f"{out} holds prepared data: name another folder for the run.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{error.filename} is a file, and a run takes a folder: name another.") from None
    with contextlib.ExitStack() as stack:
        free = True
        if jax.process_index() == 0:
            try:
                stack.enter_context(locked(out))
            except BlockingIOError:
                free = False
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            free = bool(multihost_utils.broadcast_one_to_all(np.bool_(free)))
        if not free:
            raise busy(out)
        yield


@contextlib.contextmanager
def plain_name(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A context that gives the folder a plain name of letters and digits: its own, or that of a temporary link to it.

    Orbax reads `[1]` as a pattern and a backslash as a slash. Orbax and JAX's profiler take names in UTF-8 alone.
    """
    folder = folder.resolve()
    if re.fullmatch(r"[\w /.,+=@-]+", str(folder), re.ASCII):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="audax-train-") as temporary:
        link = pathlib.Path(temporary) / "run"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def note(out: pathlib.Path, recipe: Recipe, dataset: Dataset, examples: int) -> None:
    """Writes the recipe of the run to the folder.

    Raises ValueError if the folder holds a run of another recipe or of other data, or one that cannot get that length.
    """
    path = out / "recipe.json"
    content = {"dataset": dataset.digest} | json.loads(recipe.to_json())
    steps = [int(checkpoint.name) for checkpoint in (out / "checkpoints").glob("*") if checkpoint.name.isdecimal()]
    if path.exists() and steps:
        old_content = parse_json(path.read_text(encoding="utf-8"), str(path))
        if differences := ", ".join(_differences(old_content, content)):
            raise ValueError(f"{out} holds another run, which differs in {differences}: choose another folder.")
        _check_length(out, recipe, old_content["run"], max(steps), examples)
    if jax.process_index() == 0:
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The fields that differ, each with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            name = f"{path}.{key}".lstrip(".")
            if name not in FREE and (key in old or new[key]):  # an older run may lack an option that is off now
                yield from _differences(old.get(key), new.get(key), name)
    elif old != new:
        yield f"{path} ({old} then, {new} now)"


def _check_length(out: pathlib.Path, recipe: Recipe, old_run: dict[str, Any], steps: int, examples: int) -> None:
    """Raises ValueError if the run would end before its last checkpoint, or if the steps so far had other rates."""
    run = dataclasses.replace(recipe.run, epochs=old_run["epochs"], steps=old_run["steps"])
    old_recipe = dataclasses.replace(recipe, run=run)
    old_total, total = (version.total_steps(examples) for version in (old_recipe, recipe))
    if total < steps:
        raise ValueError(
            f"{out} has done {steps} steps, and a run of {total} is over by then: ask for at least {steps}."
        )
    clips = f"--data.seconds {recipe.data.seconds:g} "
    if recipe.data.hold_out_share:
        clips += f"--data.hold-out-share {recipe.data.hold_out_share:g}"
    else:
        clips += f"--data.hold-out {recipe.data.hold_out}"
        clips += f" --data.held-out {' '.join(recipe.data.held_out)}" if recipe.data.held_out else ""
    old_rate, rate = (schedule(version, examples)(steps - 1) for version in (old_recipe, recipe))
    if old_rate != rate:
        raise ValueError(
            f"{out} was to end its {recipe.optimizer.schedule} at step {old_total}: with an end at step {total} the "
            f"rate of step {steps} would be {rate:.3g}, not {old_rate:.3g}. Train anew in another folder, or start "
            f"there from this model, audax-train finetune DATA OUT --model.start {out}/model {clips}. The schedules "
            "step, exponential and constant can be lengthened."
        )
