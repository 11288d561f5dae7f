"""Pages of Markdown as tests: their Python, run as it stands, and what they tell to type."""

import pathlib
import re
import shlex

import jax

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
    """The indented lines that call the program, as words without its name."""
    lines = re.findall(rf"^    {program} (.*)$", page.read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]
