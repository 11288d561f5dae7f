"""Pages of Markdown as tests: their Python, run as it stands, and what they tell to type."""

import importlib.metadata
import os
import pathlib
import re
import shlex

import jax
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"


def blocks(page):
    """The Python blocks, each with the heading that it stands under."""
    heading = ""
    for title, block in re.findall(r"^## ([^\n]*)$|^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        heading = title or heading
        if block:
            yield heading, block


def run(page):
    """Runs all blocks in one namespace; gives the names that there were at the end of each section."""
    names, after = {}, {}
    for heading, block in blocks(page):
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
            exec(compile(block, page.name, "exec"), names)
        after[heading] = dict(names)
    return after


def commands(page, program):
    """The indented lines that call the program, as words without its name, with the variables of the environment."""
    lines = re.findall(rf"^    {program} (.*)$", page.read_text(), re.MULTILINE)
    return [shlex.split(os.path.expandvars(line), comments=True) for line in lines]


def extras(page):
    """The extras that the page says to install: `pip install ".[train]"`."""
    return {name for names in re.findall(r"\.\[([\w,]+)\]", page.read_text()) for name in names.split(",")}


def environment(folder, *chosen):
    """Makes `folder` a place to import from that has what the base install and some extras bring, and no more."""
    done, todo = set(), [("audax-eqx", frozenset(chosen))]
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in done:
            continue
        done.add((name, wanted))
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in {"", *wanted}
            ):
                todo.append((requirement.name, frozenset(requirement.extras)))
