"""Train states of Flax (`flax.training.checkpoints`, 2022), read without Flax: one dictionary in msgpack."""

import pathlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes  # noqa: F401, gives NumPy bfloat16
import msgpack
import numpy as np


def read_train_state(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of the trained model in a train state, under names such as `encoder/Conv_0/kernel`.

    Raises ValueError for a file that holds no train state.
    """
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_array, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        # The text of the original error may contain the whole file.
        raise ValueError(
            f"{path} is not a whole audax checkpoint, which is a train state in Flax's msgpack, and no safetensors or "
            "torch file either: name another file, or copy it again."
        ) from None
    if not isinstance(tree, dict) or not isinstance(tree.get("params"), dict):
        raise ValueError(f"{path} holds no train state with `params`: audax's checkpoints do.")
    # A linear probe keeps its encoder among the frozen parameters.
    return dict(item for part in ("params", "frozen_params", "batch_stats") for item in _leaves(tree.get(part)))


def _array(code: int, data: bytes) -> Any:
    """An array (1) or a scalar (3), Flax's extension types. Both are packed as shape, name of the dtype and bytes."""
    if code not in (1, 3):
        return None  # complex numbers, which no audax model holds
    shape, dtype, buffer = msgpack.unpackb(data)
    return np.frombuffer(buffer, np.dtype(dtype)).reshape(shape)


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, np.ndarray):
        yield path, tree
    elif isinstance(tree, dict):
        for name, branch in tree.items():
            yield from _leaves(branch, f"{path}/{name}" if path else str(name))
