"""Rename tables, which turn a foreign checkpoint's arrays into ours: one rule a line, strict in both directions."""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

# Moves of arrays -----------------------------------------------------------------------------------------------------


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
    """A torch convolution over several channels to ours over one: the sum of the kernels, as if channels were equal."""
    return hwio(kernel.sum(axis=1, keepdims=True))


def time_first(kernel: np.ndarray) -> np.ndarray:
    """A torch kernel over freq and time, outputs inputs freq time, to ours: time freq inputs outputs."""
    return kernel.transpose(3, 2, 1, 0)


def taps_first(kernel: np.ndarray) -> np.ndarray:
    """A torch kernel over time, outputs inputs taps, to ours: taps inputs outputs."""
    return kernel.transpose(2, 1, 0)


def flat(array: np.ndarray) -> np.ndarray:
    """All elements on one axis."""
    return array.reshape(-1)


def only(array: np.ndarray) -> np.ndarray:
    """The array without its first axis, which has one element."""
    return array.reshape(array.shape[1:])


def thirds(array: np.ndarray) -> list[np.ndarray]:
    """Query, key and value, which follow each other on the first axis."""
    return np.split(array, 3)


# Rules ---------------------------------------------------------------------------------------------------------------

drop = None  # the replacement of known keys that we do not need


class Rule(NamedTuple):  # no dataclass, whose types would be checked for each of a thousand rules
    """Keys that match the whole `pattern` become `replacement` (regular expressions), their arrays `move(array)`.

    With several replacements, `move` returns as many arrays, in the same order.
    """

    pattern: str
    replacement: str | tuple[str, ...] | None
    move: Callable[[np.ndarray], Any] = same

    def moved(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of `move(array)` for an array of this shape; the same shape if `move` cannot take it."""
        try:
            return self.move(np.broadcast_to(np.float32(0), shape)).shape  # a broadcast zero takes no memory
        except ValueError:
            return shape

    def parts(self) -> "tuple[Rule, ...]":
        """One rule for each replacement."""
        if self.replacement is None or isinstance(self.replacement, str):
            return () if self.replacement is None else (self,)
        return tuple(
            Rule(self.pattern, name, functools.partial(_part, self.move, index))
            for index, name in enumerate(self.replacement)
        )


def _part(move: Callable[[np.ndarray], Sequence[np.ndarray]], index: int, array: np.ndarray) -> np.ndarray:
    return move(array)[index]


def rename(keys: Iterable[str], rules: Sequence[Rule]) -> tuple[dict[str, tuple[str, Rule]], list[str]]:
    """For each of our names the key that fills it and its rule; and a list of faults.

    A fault is a key that matches no rule or several, or a name that is filled twice.
    """
    sources: dict[str, tuple[str, Rule]] = {}
    faults = []
    for key in keys:
        matches = [rule for rule in rules if re.fullmatch(rule.pattern, key)]
        if len(matches) != 1:
            fate = "" if matches else ", so no array of the model is made of it"
            faults.append(f"{key} matches {len(matches)} rules{fate}")
            continue
        for part in matches[0].parts():
            name = re.sub(part.pattern, str(part.replacement), key)
            if name in sources:
                faults.append(f"{key} and {sources[name][0]} both fill {name}")
            sources[name] = (key, part)
    return sources, faults


def drops(rules: Iterable[Rule]) -> list[str]:
    """The patterns of the keys that rules drop, sorted, without that of the counters in every torch file."""
    return sorted({rule.pattern for rule in rules if rule.replacement is drop} - {COUNTER.pattern})


def under(path: str, name: str, *rules: Rule) -> tuple[Rule, ...]:
    """The rules with `path` before their patterns and `name` before their replacements; groups in `path` come first."""
    groups = re.compile(path).groups
    return tuple(Rule(path + rule.pattern, _below(name, rule.replacement, groups), rule.move) for rule in rules)


def _below(name: str, replacement: str | tuple[str, ...] | None, groups: int) -> str | tuple[str, ...] | None:
    """The replacement with `name` in front, for a pattern that now has `groups` more groups in front."""
    if isinstance(replacement, tuple):
        return tuple(str(_below(name, part, groups)) for part in replacement)
    if replacement is None:
        return None
    return name + re.sub(r"\\(\d+)", lambda match: f"\\{int(match[1]) + groups}", replacement)


# For tables of torch's files

NORM = "(weight|bias|running_mean|running_var)"
COUNTER = Rule(r"(?:.*\.)?num_batches_tracked", drop)

# For tables of timm's Vision Transformers: everything except the query, key and value, and those

VIT = (
    Rule(r"patch_embed\.proj\.weight", "patchify.weight", time_first),
    Rule(r"patch_embed\.proj\.bias", "patchify.bias"),
    Rule(r"blocks\.(\d+)\.norm1\.(weight|bias)", r"blocks.\1.attention_norm.\2"),
    Rule(r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"blocks.\1.attention.output.\2"),
    Rule(r"blocks\.(\d+)\.norm2\.(weight|bias)", r"blocks.\1.mlp_norm.\2"),
    Rule(r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"blocks.\1.expand.\2"),
    Rule(r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"blocks.\1.contract.\2"),
    Rule(r"norm\.(weight|bias)", r"norm.\1"),
)
QKV = Rule(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"blocks.\1.attention.qkv.\2")

# For tables of Flax's files


def transposed(kernel: np.ndarray) -> np.ndarray:
    """A Flax kernel of a dense layer or 1x1 convolution to ours: outputs inputs. Larger kernels have our layout."""
    return kernel.reshape(kernel.shape[-2:]).T if kernel.shape[:-2] in ((), (1, 1)) else kernel


def flax_layer(path: str, name: str) -> tuple[Rule, ...]:
    """The rules of a dense layer or convolution."""
    return Rule(f"{path}/kernel", f"{name}.weight", transposed), Rule(f"{path}/bias", f"{name}.bias")


def flax_norm(path: str, name: str) -> tuple[Rule, ...]:
    """The rules of a BatchNorm or LayerNorm."""
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return tuple(Rule(f"{path}/{foreign_name}", f"{name}.{our_name}") for foreign_name, our_name in leaves.items())
