"""Reads a foreign checkpoint by a rename table that is strict in both directions."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np


def same(array: np.ndarray) -> np.ndarray:
    """The array as it is."""
    return array


def hwio(kernel: np.ndarray) -> np.ndarray:
    """A torch convolution's kernel, outputs inputs height width, to ours: height width inputs outputs."""
    return kernel.transpose(2, 3, 1, 0)


def dense(kernel: np.ndarray) -> np.ndarray:
    """A torch 1x1 convolution's kernel, outputs inputs 1 1, to a linear map's: outputs inputs. Others as `hwio`."""
    return kernel.reshape(kernel.shape[:2]) if kernel.shape[2:] in ((), (1, 1)) else hwio(kernel)


def mono(kernel: np.ndarray) -> np.ndarray:
    """A torch convolution over several channels to ours over one: the sum is what it gives for equal channels."""
    return hwio(kernel.sum(axis=1, keepdims=True))


drop = None  # the replacement of keys that are known and of no use


@dataclasses.dataclass(frozen=True)
class Rule:
    """Keys that match the whole `pattern` become `replacement` (regular expressions), their arrays `move(array)`."""

    pattern: str
    replacement: str | None
    move: Callable[[np.ndarray], np.ndarray] = same

    def moved(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What `move` makes of an array's shape; the shape as it is where `move` cannot take it."""
        try:
            return self.move(np.broadcast_to(np.float32(0), shape)).shape  # a broadcast zero takes no memory
        except ValueError:
            return shape


def rename(keys: Iterable[str], rules: Sequence[Rule]) -> tuple[dict[str, tuple[str, Rule]], list[str]]:
    """For each of our names the key that fills it and by which rule, and a list of faults.

    A fault is a key that matches no rule or several, or a name filled twice.
    """
    found: dict[str, tuple[str, Rule]] = {}
    faults = []
    for key in keys:
        matching = [rule for rule in rules if re.fullmatch(rule.pattern, key)]
        if len(matching) != 1:
            faults.append(f"{key} matches {len(matching)} rules")
            continue
        (rule,) = matching
        if rule.replacement is None:
            continue
        name = re.sub(rule.pattern, rule.replacement, key)
        if name in found:
            faults.append(f"{key} and {found[name][0]} both fill {name}")
        found[name] = (key, rule)
    return found, faults
