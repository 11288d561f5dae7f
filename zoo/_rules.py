"""Rename tables: how a foreign checkpoint's arrays become ours, by one rule a line, strict in both directions."""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

# What moves an array -------------------------------------------------------------------------------------------------


def same(array: np.ndarray) -> np.ndarray:
    """The array as it is."""
    return array


def hwio(kernel: np.ndarray) -> np.ndarray:
    """A torch convolution's kernel, outputs inputs height width, to ours: height width inputs outputs."""
    return kernel.transpose(2, 3, 1, 0)


def dense(kernel: np.ndarray) -> np.ndarray:
    """A torch convolution's kernel of one place, outputs inputs 1 1 or outputs inputs 1, to a linear map's: outputs
    inputs. Others as `hwio`."""
    return kernel.reshape(kernel.shape[:2]) if kernel.shape[2:] in ((), (1,), (1, 1)) else hwio(kernel)


def mono(kernel: np.ndarray) -> np.ndarray:
    """A torch convolution over several channels to ours over one: the sum is what it gives for equal channels."""
    return hwio(kernel.sum(axis=1, keepdims=True))


def time_first(kernel: np.ndarray) -> np.ndarray:
    """A torch kernel over freq and time, outputs inputs freq time, to ours: time freq inputs outputs."""
    return kernel.transpose(3, 2, 1, 0)


def taps_first(kernel: np.ndarray) -> np.ndarray:
    """A torch kernel over time, outputs inputs taps, to ours: taps inputs outputs."""
    return kernel.transpose(2, 1, 0)


def flat(array: np.ndarray) -> np.ndarray:
    """One axis of all."""
    return array.reshape(-1)


def only(array: np.ndarray) -> np.ndarray:
    """What lies behind the first axis, which has one element."""
    return array.reshape(array.shape[1:])


def thirds(array: np.ndarray) -> list[np.ndarray]:
    """Query, key and value, which lie one after the other on the first axis."""
    return np.split(array, 3)


# Rules ---------------------------------------------------------------------------------------------------------------

drop = None  # the replacement of keys that are known and of no use


class Rule(NamedTuple):  # of which there are a thousand: a dataclass's types would be checked for each
    """Keys that match the whole `pattern` become `replacement` (regular expressions), their arrays `move(array)`.

    With several replacements `move` gives as many arrays, in their order.
    """

    pattern: str
    replacement: str | tuple[str, ...] | None
    move: Callable[[np.ndarray], Any] = same

    def moved(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What `move` makes of an array's shape; the shape as it is where `move` cannot take it."""
        try:
            return self.move(np.broadcast_to(np.float32(0), shape)).shape  # a broadcast zero takes no memory
        except ValueError:
            return shape

    def parts(self) -> "tuple[Rule, ...]":
        """One rule a replacement."""
        if self.replacement is None or isinstance(self.replacement, str):
            return () if self.replacement is None else (self,)
        return tuple(
            Rule(self.pattern, name, functools.partial(_part, self.move, index))
            for index, name in enumerate(self.replacement)
        )


def _part(move: Callable[[np.ndarray], Sequence[np.ndarray]], index: int, array: np.ndarray) -> np.ndarray:
    return move(array)[index]


def rename(keys: Iterable[str], rules: Sequence[Rule]) -> tuple[dict[str, tuple[str, Rule]], list[str]]:
    """For each of our names the key that fills it and by which rule, and a list of faults.

    A fault is a key that matches no rule or several, or a name filled twice.
    """
    found: dict[str, tuple[str, Rule]] = {}
    faults = []
    for key in keys:
        matching = [rule for rule in rules if re.fullmatch(rule.pattern, key)]
        if len(matching) != 1:
            fate = "" if matching else ", so no array of the model is made of it"
            faults.append(f"{key} matches {len(matching)} rules{fate}")
            continue
        for part in matching[0].parts():
            name = re.sub(part.pattern, str(part.replacement), key)
            if name in found:
                faults.append(f"{key} and {found[name][0]} both fill {name}")
            found[name] = (key, part)
    return found, faults


def drops(rules: Iterable[Rule]) -> list[str]:
    """The patterns of keys that rules drop, but for the counters that every torch file has; sorted."""
    return sorted({rule.pattern for rule in rules if rule.replacement is drop} - {COUNTER.pattern})


def under(path: str, name: str, *rules: Rule) -> tuple[Rule, ...]:
    """The rules for keys that begin with `path` and names that begin with `name`; groups in `path` count first."""
    groups = re.compile(path).groups
    return tuple(Rule(path + rule.pattern, _below(name, rule.replacement, groups), rule.move) for rule in rules)


def _below(name: str, replacement: str | tuple[str, ...] | None, groups: int) -> str | tuple[str, ...] | None:
    """The replacement behind `name`, for a pattern with so many groups in front."""
    if isinstance(replacement, tuple):
        return tuple(str(_below(name, each, groups)) for each in replacement)
    if replacement is None:
        return None
    return name + re.sub(r"\\(\d+)", lambda match: f"\\{int(match[1]) + groups}", replacement)


# What tables of torch's files have in common

NORM = "(weight|bias|running_mean|running_var)"
COUNTER = Rule(r"(?:.*\.)?num_batches_tracked", drop)

# What tables of Flax's files have in common


def transposed(kernel: np.ndarray) -> np.ndarray:
    """A Flax dense kernel, or one of a 1x1 convolution, to ours: outputs inputs. Larger ones are as ours."""
    return kernel.reshape(kernel.shape[-2:]).T if kernel.shape[:-2] in ((), (1, 1)) else kernel


def flax_layer(path: str, name: str) -> tuple[Rule, ...]:
    """A dense layer or convolution."""
    return Rule(f"{path}/kernel", f"{name}.weight", transposed), Rule(f"{path}/bias", f"{name}.bias")


def flax_norm(path: str, name: str) -> tuple[Rule, ...]:
    """A BatchNorm or LayerNorm."""
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return tuple(Rule(f"{path}/{theirs}", f"{name}.{ours}") for theirs, ours in leaves.items())
