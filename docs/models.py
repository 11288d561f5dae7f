"""The tables of models and of families: writes them between their markers in README.md and docs/zoo.md.

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
    """One row a model; the packaged ones, which need no network, first."""
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


def metric(measured) -> str:
    source = "the publisher's figure" if measured["source"].startswith("the publisher") else measured["source"]
    return f"{measured['metric']} {measured['value']:.3f} on {measured['dataset']}, {source}"


def family_table() -> str:
    """One row a family: what it is, which models of others load, and which bare files of weights convert."""
    rows = [("family", "loads by its config.json", "converts"), ("---",) * 3]
    for family in families.modules():
        files = family.recognise.__doc__.split("\n\n")[0] if hasattr(family, "recognise") else "-"
        rows.append((family.__doc__.split("\n")[0].rstrip("."), getattr(family, "READS", "-"), files.rstrip(".")))
    return "".join(f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |\n" for cells in rows)


def written(text: str, rows: str, begin: str = BEGIN) -> str:
    """The page's text with the rows between its markers."""
    before, found, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    assert found and end, f"the page lacks the markers {begin!r} and {END!r}"
    return f"{before}{begin}{rows}{END}{after}"


if __name__ == "__main__":
    rows = table()
    for page in PAGES:
        page.write_text(written(page.read_text(), rows))
    page = ROOT / "docs" / "zoo.md"
    page.write_text(written(page.read_text(), family_table(), FAMILIES))
