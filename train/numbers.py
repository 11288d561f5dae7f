"""Which numbers of a recipe are arguments of the compiled step, so that another value is the same program.

They are the floats of the optimizer and the objective, which are Equinox modules: `learning_rate`, `weight_decay`,
`mixup`. Whole numbers, words and functions are part of the program, and so are 0 and 1, which may leave a part out.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np


def split(tree: Any) -> tuple[Any, Any]:
    """The tree's numbers as float32 scalars, and the rest of it; `eqx.combine` puts them together."""
    numbers, rest = eqx.partition(tree, lambda leaf: isinstance(leaf, float) and leaf not in (0, 1))
    return jax.tree.map(np.float32, numbers), rest


def adjusts(number: float | jax.Array, neutral: float = 0.0) -> bool:
    """Whether the number has an effect: not at `neutral`, 0 or 1; as an argument of the program always."""
    return isinstance(number, jax.Array) or number != neutral
