"""Writes the tables of models and of families between their markers in README.md and docs/zoo.md.

python docs/models.py
"""

import pathlib

import equinox as eqx
import jax

import zoo
from zoo import families

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "zoo.md")
BEGIN, END = "<!-- by docs/models.py -->\n\n", "\n<!-- end -->\n"
FAMILIES = "<!-- families by docs/models.py -->\n\n"
COLUMNS = ("name", "task", "classes", "sample rate", "length", "parameters", "embedding", "weights", "metric")


def table() -> str:
    """A table with a row for each model, the packaged ones first."""
    entries = sorted(map(zoo.info, zoo.list_models()), key=lambda entry: entry.checkpoint is not None)
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(row, entries)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def row(entry: zoo.Entry) -> tuple[str, ...]:
    model, _ = eqx.filter_eval_shape(zoo.create, entry, key=jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, lambda leaf: hasattr(leaf, "shape"))))
    weights = "in the package"
    if entry.checkpoint is not None:
        weights = f"[{entry.checkpoint.repo}](https://huggingface.co/{entry.checkpoint.repo})"
    return (
        f"`{entry.name}`",
        entry.task,
        str(entry.classes or "-"),
        f"{entry.sample_rate / 1000:g} kHz",
        f"{entry.window:g} s",
        f"{parameters / 1e6:.3g} M",
        str(model.network.width),
        f"{weights}, {entry.license}",
        metric(entry.metrics[0]) if entry.metrics else "-",
    )


def metric(note) -> str:
    """The text of a metric of an entry."""
    source = "the publisher's figure" if note["source"].startswith("the publisher") else note["source"]
    return f"{note['metric']} {note['value']:.3f} on {note['dataset']}, {source}"


def family_table() -> str:
    """A table with a row for each family: its name, the models of other libraries that load, and the bare files of
    weights that convert."""
    rows = [("family", "loads by its config.json", "converts"), ("---",) * 3]
    for family in families.modules():
        files = family.recognise.__doc__.split("\n\n")[0] if hasattr(family, "recognise") else "-"
        rows.append((family.__doc__.split("\n")[0].rstrip("."), getattr(family, "READS", "-"), files.rstrip(".")))
    return "".join(f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |\n" for cells in rows)


def replace(text: str, rows: str, begin: str = BEGIN) -> str:
    """The page's text with the rows between its markers."""
    head, begin_marker, rest = text.partition(begin)
    _, end_marker, tail = rest.partition(END)
    assert begin_marker and end_marker, f"the page lacks the markers {begin!r} and {END!r}"
    return f"{head}{begin}{rows}{END}{tail}"


if __name__ == "__main__":
    rows = table()
    for page in PAGES:
        page.write_text(replace(page.read_text(), rows))
    page = ROOT / "docs" / "zoo.md"
    page.write_text(replace(page.read_text(), family_table(), FAMILIES))
