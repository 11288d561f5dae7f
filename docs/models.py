"""The table of models from the zoo's entries: writes it between its markers in README.md and docs/zoo.md.

python docs/models.py
"""

import pathlib

import equinox as eqx
import jax

import zoo

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "zoo.md")
BEGIN, END = "<!-- by docs/models.py -->\n\n", "\n<!-- end -->\n"
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


def written(text: str, rows: str) -> str:
    """The page's text with the rows between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"the page lacks the markers {BEGIN!r} and {END!r}"
    return f"{before}{BEGIN}{rows}{END}{after}"


if __name__ == "__main__":
    rows = table()
    for page in PAGES:
        page.write_text(written(page.read_text(), rows))
