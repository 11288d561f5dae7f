"""The numbers of a recipe that are arguments of the compiled step, so that other values do not compile it again.

They are the floats of the optimizer and the objective, which are Equinox modules: `learning_rate`, `weight_decay`,
`mixup`. Whole numbers, words and functions are part of the program. So are 0 and 1, which may switch a part off.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np


def split(tree: Any) -> tuple[Any, Any]:
    """The numbers of the tree as float32 scalars, and the rest of the tree; `eqx.combine` joins them."""
    numbers, rest = eqx.partition(tree, lambda leaf: isinstance(leaf, float) and leaf not in (0, 1))
    return jax.tree.map(np.float32, numbers), rest


def adjusts(number: float | jax.Array, neutral: float = 0.0) -> bool:
    """Whether the number has an effect: always as an argument of the program, else unless it is `neutral`, 0 or 1."""
    return isinstance(number, jax.Array) or number != neutral
