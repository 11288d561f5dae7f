"""Checkpoints of audax (Flax, 2022), read without Flax: `flax.training.checkpoints` msgpack to one of our folders.

The architecture is recognised from the names and shapes of the arrays. What no array tells is a parameter: the sample
rate, the window, the labels.
"""

import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np

from ._entry import Entry
from ._load import assemble
from ._save import save

Shapes = Mapping[str, tuple[int, ...]]
TASKS, MODELS = ("multiclass", "multilabel"), ("COLA", "SimCLR")


def convert(
    source: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    *,
    sample_rate: int = 16000,
    window: float = 5.0,
    labels: Sequence[str] = (),
    task: str | None = None,
    model: str | None = None,
) -> pathlib.Path:
    """Reads the audax checkpoint `source` ("path/to/checkpoint_123") and writes a folder for `zoo.load`, which it
    returns: `folder`, or a new one beside the checkpoint, `checkpoint_123_audax_eqx`.

    The frontend does exactly what audax did. `window` is the native length in seconds. `task` is that of a classifier:
    "multilabel" for AudioSet's 527 classes and "multiclass" otherwise, unless given. COLA with the dot product and
    SimCLR keep the same arrays: they are taken for "COLA" unless `model` is "SimCLR".

    Raises FileNotFoundError, and ValueError for what is not such a checkpoint or of an architecture audax has not, and
    for options that contradict it.
    """
    source = pathlib.Path(source)
    folder = source.with_name(f"{source.name}_audax_eqx") if folder is None else pathlib.Path(folder)
    for what, given, choices in (("task", task, TASKS), ("model", model, MODELS)):
        if given is not None and given not in choices:
            raise ValueError(f"convert takes the {what} {' or '.join(map(repr, choices))}, got {given!r}.")
    arrays = read(source)
    try:
        arrays = _named(arrays, str(source))
        shapes = {key: array.shape for key, array in arrays.items()}
        described = {
            "frontend": _frontend(shapes, sample_rate, str(source)),
            "network": _network(shapes, str(source)),
            "model": _head(shapes, model, str(source)),
            "classes": shapes["fc/kernel"][-1] if "fc/kernel" in shapes else 0,
        }
    except KeyError as missing:
        raise ValueError(f"{source} is not a whole audax checkpoint: it has no {missing}.") from None
    except IndexError:
        raise ValueError(f"{source} is no audax checkpoint: one of its kernels has too few axes.") from None
    classes = described["classes"]
    if task is not None and not classes:
        raise ValueError(f"{source} is a {described['model']['type']} without classes: leave the task {task!r} out.")
    chosen: Any = task or ("multilabel" if classes == 527 else "multiclass") if classes else "contrastive"
    entry = Entry(
        name=folder.resolve().name,
        **described,
        task=chosen,
        window=window,
        labels=tuple(labels),
        source="converted from an audax checkpoint, https://github.com/SarthakYadav/audax",
    )
    from ._tables import AUDAX  # checking the types of its rules on import would take long

    clip = assemble(entry, arrays, shapes, str(source), AUDAX)
    save(folder, clip.model, clip.state, entry)
    return folder


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of the trained model in a Flax train state, `encoder/Conv_0/kernel` and so on."""
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_array, strict_map_key=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: name an audax checkpoint, path/to/checkpoint_123.") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder: name the checkpoint in it, path/to/checkpoint_123.") from None
    except (ValueError, TypeError, msgpack.UnpackException):
        # The error's own text may hold all that was read.
        raise ValueError(
            f"{path} is not a whole audax checkpoint, which is a train state in Flax's msgpack: name the file "
            "path/to/checkpoint_123, or copy it again."
        ) from None
    if not isinstance(tree, dict) or not isinstance(tree.get("params"), dict):
        raise ValueError(f"{path} holds no train state with `params`: audax's checkpoints do.")
    # A linear probe keeps its encoder among the frozen parameters.
    return dict(item for part in ("params", "frozen_params", "batch_stats") for item in _leaves(tree.get(part)))


def _array(code: int, data: bytes) -> Any:
    """Flax's extension types: 1 is an array and 3 a scalar, packed as shape, name of the dtype, bytes."""
    if code not in (1, 3):
        return None  # complex numbers, which no audax model holds
    shape, dtype, buffer = msgpack.unpackb(data)
    return np.frombuffer(buffer, jnp.dtype(dtype)).reshape(shape)


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, np.ndarray):
        yield path, tree
    elif isinstance(tree, dict):
        for name, branch in tree.items():
            yield from _leaves(branch, f"{path}/{name}" if path else str(name))


def _named(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The arrays with the blocks of ResNet and EfficientNet, which are numbered through, named by stage and block:
    `encoder/stages/0/1/Conv_0/kernel`."""
    shapes = {name: array.shape for name, array in arrays.items()}
    places = _stages(shapes, where)
    numbered = r"encoder/(?:MBConv|ResNetBlock|BottleneckResNetBlock)_(\d+)/"
    return {
        re.sub(numbered, lambda match: "encoder/stages/{}/{}/".format(*places[int(match[1])]), name): array
        for name, array in arrays.items()
    }


def _stages(shapes: Shapes, where: str) -> list[tuple[int, int]]:
    """Stage and index in it of each block of a ResNet or EfficientNet; none for others.

    A stage ends where the channels, the kernel or the expansion change.
    """
    kinds = [_block(shapes, f"encoder/{name}_{index}") for name, index in _blocks(shapes)]
    places = []
    for before, kind in zip([None, *kinds], kinds, strict=False):
        stage, index = places[-1] if places else (0, -1)
        places.append((stage, index + 1) if before in (None, kind) else (stage + 1, 0))
    if any("/MBConv_" in name for name in shapes) and places[-1][0] != 6:
        raise ValueError(
            f"{where} holds an EfficientNet of {places[-1][0] + 1} stages that can be told apart, instead of 7: it is "
            "too narrow."
        )
    return places


def _blocks(shapes: Shapes) -> list[tuple[str, int]]:
    """(MBConv, 0), (MBConv, 1), ... in this order."""
    found = {re.match(r"encoder/(MBConv|ResNetBlock|BottleneckResNetBlock)_(\d+)/", name) for name in shapes}
    blocks = sorted({(match[1], int(match[2])) for match in found if match})
    for index, (name, number) in enumerate(blocks):
        if number != index:
            raise KeyError(f"encoder/{name}_{index}")
    return blocks


def _block(shapes: Shapes, path: str) -> tuple:
    """What the blocks of one stage have in common."""
    if f"{path}/conv_proj/kernel" in shapes or f"{path}/Conv_0/kernel" in shapes:
        return shapes[f"{path}/Conv_1/kernel"][-1:]
    expanded = f"{path}/ConvNormActivation_2/Conv_0/kernel" in shapes
    kernel = shapes[f"{path}/ConvNormActivation_{int(expanded)}/Conv_0/kernel"][0]
    return expanded, kernel, shapes[f"{path}/ConvNormActivation_{int(expanded) + 1}/Conv_0/kernel"][-1]


def _frontend(shapes: Shapes, sample_rate: int, where: str) -> dict[str, Any]:
    for name, kind in (("gabor", "LEAF"), ("sinc", "SincNet")):
        if (kernel := shapes.get(f"frontend/complex_conv/{name}_kernel")) is not None:
            if kind == "SincNet" and sample_rate != 16000:
                raise ValueError(
                    f"{where} has a SincNet, whose filters audax made for 16000 Hz at any sample rate: it converts at "
                    f"16000 Hz alone, got {sample_rate}."
                )
            return {"type": kind, "sample_rate": sample_rate, "bins": kernel[0]}
    if sample_rate < 15600:
        raise ValueError(f"{where} has mel filters up to 7800 Hz: give the sample rate it had, got {sample_rate} Hz.")
    return {"type": "audax_log_mel", "sample_rate": sample_rate}


def _network(shapes: Shapes, where: str) -> dict[str, Any]:
    """`shapes` are by stage and block."""

    def depths(pattern: str) -> tuple[int, ...]:
        places = {match.groups() for name in shapes if (match := re.match(pattern, name))}
        return tuple(sum(stage == str(index) for stage, _ in places) for index in range(len({s for s, _ in places})))

    if "encoder/ConvNeXtStage_0/ConvNeXtBlock_0/Conv_0/kernel" in shapes:
        blocks = depths(r"encoder/ConvNeXtStage_(\d+)/ConvNeXtBlock_(\d+)/")
        widths = tuple(
            shapes[f"encoder/ConvNeXtStage_{stage}/ConvNeXtBlock_0/Conv_0/kernel"][-1] for stage in range(len(blocks))
        )
        return {"type": "ConvNeXt", "depths": blocks, "widths": widths, "final_norm": False, "gelu": "tanh"}
    blocks = depths(r"encoder/stages/(\d+)/(\d+)/")
    if "encoder/conv_init/kernel" in shapes and blocks:
        widths = tuple(shapes[f"encoder/stages/{stage}/0/Conv_1/kernel"][-1] for stage in range(len(blocks)))
        bottleneck = "encoder/stages/0/0/Conv_2/kernel" in shapes
        return {"type": "ResNet", "depths": blocks, "widths": widths, "bottleneck": bottleneck, "padding": "same"}
    if "encoder/ConvNormActivation_0/Conv_0/kernel" in shapes and blocks:
        project = ["encoder/ConvNormActivation_0/Conv_0/kernel"]
        project += [
            f"encoder/stages/{stage}/0/ConvNormActivation_{2 if stage else 1}/Conv_0/kernel"
            for stage in range(len(blocks))
        ]
        return {
            "type": "EfficientNet",
            "depths": blocks,
            "widths": tuple(shapes[name][-1] for name in project),
            "padding": "same",
            "excite_bias": False,
        }
    known = sorted({name.split("/")[1] for name in shapes if name.startswith("encoder/")})
    raise ValueError(f"{where} holds no ResNet, EfficientNet or ConvNeXt as its encoder, but {known or 'none'}.")


def _head(shapes: Shapes, model: str | None, where: str) -> dict[str, Any]:
    if "fc/kernel" not in shapes and "embedding_fc/kernel" not in shapes:
        raise ValueError(f"{where} has neither a classifier's `fc` nor the `embedding_fc` of COLA and SimCLR.")
    if "fc/kernel" in shapes:
        head = {"type": "Classifier"}
    elif "similarity_layer/bilinear_product_weight" in shapes:
        head = {"type": "COLA", "width": shapes["embedding_fc/kernel"][-1], "similarity": "bilinear"}
    elif model == "SimCLR":
        head = {"type": "SimCLR", "width": shapes["embedding_fc/kernel"][-1], "linear": True}
    else:
        head = {"type": "COLA", "width": shapes["embedding_fc/kernel"][-1], "similarity": "dot"}
    if model not in (None, head["type"]):
        raise ValueError(f"{where} holds a {head['type']}, not the {model} that was asked for: leave `model` out.")
    return head
