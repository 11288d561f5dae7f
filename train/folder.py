"""The folder of a run: one recipe, one data set, and one process at a time. It may be lengthened, and not changed."""

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

FREE = (  # may change while a run goes on: what was done so far would be the same
    *("data.threads", "run.epochs", "run.steps", "run.evaluate", "run.checkpoint", "run.keep", "run.log"),
    *("run.profile", "run.patience"),
)


@contextlib.contextmanager
def claimed(out: pathlib.Path) -> Iterator[None]:
    """Makes the folder, and keeps all other runs out of it while it is entered; the first host does it for all.

    Raises BlockingIOError where another process trains in it.
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
def plainly_named(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder by a name of letters and digits, while it is entered: a link to it, if it has not such a name itself.

    Orbax reads `[1]` as a pattern and a backslash as a slash, and like JAX's profiler it takes no name but UTF-8.
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
    """Writes down the recipe of the run in the folder.

    Raises ValueError where a run of another recipe or other data has begun there, or one that cannot be lengthened so.
    """
    path = out / "recipe.json"
    now = {"dataset": dataset.digest} | json.loads(recipe.to_json())
    steps = [int(each.name) for each in (out / "checkpoints").glob("*") if each.name.isdecimal()]
    if path.exists() and steps:
        before = parse_json(path.read_text(encoding="utf-8"), str(path))
        if changed := ", ".join(_differences(before, now)):
            raise ValueError(f"{out} holds another run, which differs in {changed}: choose another folder.")
        _check_length(out, recipe, before["run"], max(steps), examples)
    if jax.process_index() == 0:
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            name = f"{path}.{key}".lstrip(".")
            if name not in FREE and (key in before or now[key]):  # an option that is new, and does nothing yet
                yield from _differences(before.get(key), now.get(key), name)
    elif before != now:
        yield f"{path} ({before} then, {now} now)"


def _check_length(out: pathlib.Path, recipe: Recipe, before: dict[str, Any], done: int, examples: int) -> None:
    """Raises ValueError where the run would end before the steps done, or they would have had other rates."""
    run = dataclasses.replace(recipe.run, epochs=before["epochs"], steps=before["steps"])
    earlier = dataclasses.replace(recipe, run=run)
    then, now = (each.total_steps(examples) for each in (earlier, recipe))
    if now < done:
        raise ValueError(f"{out} has done {done} steps, and a run of {now} is over by then: ask for at least {done}.")
    clips = f"--data.seconds {recipe.data.seconds:g} "
    if recipe.data.hold_out_share:
        clips += f"--data.hold-out-share {recipe.data.hold_out_share:g}"
    else:
        clips += f"--data.hold-out {recipe.data.hold_out}"
        clips += f" --data.held-out {' '.join(recipe.data.held_out)}" if recipe.data.held_out else ""
    last, other = (schedule(each, examples)(done - 1) for each in (earlier, recipe))
    if last != other:
        raise ValueError(
            f"{out} was to end its {recipe.optimizer.schedule} at step {then}: with an end at step {now} the rate of "
            f"step {done} were {other:.3g}, not {last:.3g}. Train anew in another folder, or start there from what was "
            f"learned, audax-train finetune DATA OUT --model.start {out}/model {clips}. The schedules step, "
            "exponential and constant can be lengthened."
        )
