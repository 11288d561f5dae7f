"""The files of a model: what they are called, and how they are read when others may have written them."""

import json
import os
import pathlib
from typing import Any

CONFIG, WEIGHTS, EXTRACTOR = "config.json", "model.safetensors", "preprocessor_config.json"
GOLDEN, CARD = "golden.safetensors", "README.md"
FILES = (CONFIG, WEIGHTS, EXTRACTOR, GOLDEN, CARD)  # what `zoo.save` writes


def most_bytes(file: str) -> int:
    """The size up to which the zoo takes a file of this name: weights are read array by array, all others whole."""
    return 1 << 35 if file.endswith(".safetensors") and file != GOLDEN else 1 << 24


def plain(file: str) -> str:
    """The name of a file below a model's folder; raises ValueError for one that leads out of it."""
    parts = pathlib.PurePosixPath(file).parts
    if not parts or "\\" in file or "\0" in file or parts[0] == "/" or ".." in parts:
        raise ValueError(f"{file!r} is not the name of a file inside of a model's folder: name it relative to that.")
    return file


def existing(folder: pathlib.Path, file: str) -> pathlib.Path:
    """The path of a file of a model's folder. Raises FileNotFoundError, and ValueError for what must not be read."""
    path = folder / plain(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {file}: a model's folder has {CONFIG} and {WEIGHTS}, and transformers' {EXTRACTOR} "
            "beside its models; pickles, pytorch_model.bin say, are not read."
        )
    root = folder.resolve()
    if not (path.resolve().is_relative_to(root) or _in_hub_cache(root / file)):
        raise ValueError(
            f"{path} is a link out of its folder, to {path.resolve()}: copy the file there if you trust it."
        )
    return bounded(path)


def bounded(path: pathlib.Path) -> pathlib.Path:
    """The path as it is; raises ValueError when the file is too large to be what it is called."""
    size = path.stat().st_size
    if size > most_bytes(path.name):
        raise ValueError(too_large(str(path), path.name, size))
    return path


def too_large(where: str, file: str, size: int) -> str:
    """The sentence about a file of so many bytes."""
    return (
        f"{where} has {size / 1e6:.0f} MB, and the zoo reads {file} up to {most_bytes(file) / 1e6:.0f} MB: this is no "
        "model of the zoo."
    )


def read_text(path: pathlib.Path) -> str:
    """Raises ValueError for what is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 (byte {error.start}): fetch or copy it again.") from None


def parse_json(text: str, where: str) -> Any:
    """Raises ValueError that names `where` for what is not JSON, or JSON that no one writes."""
    if text.count("[") + text.count("{") > 10_000:
        raise ValueError(f"{where} holds more than 10000 lists and objects, as no description of a model does.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5000 digits is a ValueError too
        raise ValueError(f"{where} is not JSON ({str(error) or type(error).__name__}).") from None


def _in_hub_cache(link: pathlib.Path) -> bool:
    """Whether it is what the Hub's client puts into `models--owner--name/snapshots/<commit>`: a link into `blobs`."""
    snapshot = link.parent
    if not link.is_symlink() or snapshot.parent.name != "snapshots":
        return False
    target = pathlib.Path(os.path.normpath(snapshot / os.readlink(link)))
    return target.parent == snapshot.parents[1] / "blobs" and link.resolve() == target  # which is no further link
