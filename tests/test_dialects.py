"""The table of dialects in the docs is what the script runs, and our calls in it are calls."""

import pathlib
import runpy
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
DIALECTS = runpy.run_path(str(ROOT / "benchmarks" / "dialects.py"))
PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
ROWS = DIALECTS["rows"](PAGE)


def test_every_row_of_the_tables_is_run():
    tables = PAGE.split("| theirs | ours | differs by |")[1:]
    assert (
        len(ROWS)
        == sum(line.startswith("| `") for table in tables for line in table.split("\n\n")[0].splitlines())
        > 20
    )


@pytest.mark.parametrize("ours", [ours for _, ours in ROWS])
def test_ours_is_a_call(ours):
    known = DIALECTS["namespace"](11025)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filters at 11025 Hz are narrow
        y = jax.eval_shape(lambda: jnp.asarray(eval(ours, known)))
    assert y.size > 0


def test_the_distance_is_of_the_largest_of_theirs():
    assert DIALECTS["distance"](np.ones((4, 3)), np.full((1, 3, 4), 2.0)) == 0.5
    with pytest.raises(ValueError, match=r"ours has the shape \(4, 3\), theirs \(5, 3\)"):
        DIALECTS["distance"](np.ones((4, 3)), np.ones((3, 5)))
