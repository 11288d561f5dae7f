"""The files of a model: their names, and safe reading of files that other people may have written."""

import json
import os
import pathlib
import re
from typing import Any

CONFIG, WEIGHTS, EXTRACTOR = "config.json", "model.safetensors", "preprocessor_config.json"
GOLDEN, CARD = "golden.safetensors", "README.md"
TOKENIZER = "tokenizer.json"  # in models with words
INSTEAD = (
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # written by transformers
SAFETENSORS = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
)  # weights in one or more files
ARRAYS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # the suffixes of files of arrays
SHARD = re.compile(r"\.data-\d{5}-of-\d{5}$")  # a file of arrays in a TensorFlow checkpoint
FILES = (CONFIG, WEIGHTS, EXTRACTOR, GOLDEN, CARD)  # the files that `zoo.save` writes
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # includes surrogates, which no file can hold


# Folders in a model's folder: the first holds files that are being written, the second holds whole files
STAGING, SAVED = ".saving", ".saved"


def settle(folder: pathlib.Path) -> None:
    """Finishes a save that was killed after it had written all files: moves them to where they belong."""
    saved_folder = folder / SAVED
    if saved_folder.is_dir() and not saved_folder.is_symlink():
        for path in saved_folder.iterdir():
            path.replace(folder / path.name)
        saved_folder.rmdir()


def line(text: str, max_letters: int = 200) -> str:
    """Text of other people for an error message: at most `max_letters` letters, without control characters."""
    text = CONTROL.sub(" ", text[: max_letters + 1])
    return text if len(text) <= max_letters else f"{text[:max_letters]} ..."


def most_bytes(file: str) -> int:
    """The largest size that the zoo reads of a file with this name. Weights are read by array, other files whole."""
    weights = (file.endswith(ARRAYS) and file != GOLDEN) or SHARD.search(file)
    return 1 << 35 if weights else 1 << 24


def plain(file: str) -> str:
    """The name of a file in a model's folder, unchanged. Raises ValueError for a name that leads out of the folder."""
    parts = pathlib.PurePosixPath(file).parts
    if not parts or "\\" in file or "\0" in file or parts[0] == "/" or ".." in parts:
        raise ValueError(f"{file!r} is not the name of a file inside of a model's folder: name it relative to that.")
    return file


def existing(folder: pathlib.Path, file: str) -> pathlib.Path:
    """The path of a file in a model's folder. Raises FileNotFoundError, and ValueError for a file unsafe to read."""
    path = folder / plain(file)
    if (folder / SAVED / file).is_file():  # a save was killed before it moved its files: this one is newer
        path = folder / SAVED / file
    if not path.is_file():
        subfolders = [str(each.parent) for each in sorted(folder.glob(f"*/{CONFIG}"))[:3]] if file == CONFIG else []
        if subfolders:
            models = " or ".join(subfolders)
            raise FileNotFoundError(f"{folder} holds no {file}, but models in its folders: load {models}.")
        raise FileNotFoundError(
            f"{folder} holds no {file}: a model's folder has {CONFIG} and {WEIGHTS}, or pytorch_model.bin, and "
            f"transformers' {EXTRACTOR} beside its models."
        )
    root = folder.resolve()
    if not (path.resolve().is_relative_to(root) or _in_hub_cache(root / file)):
        raise ValueError(
            f"{path} is a link out of its folder, to {path.resolve()}: copy the file there if you trust it."
        )
    return bounded(path)


def no_folder(path: pathlib.Path) -> str:
    """The error message for a path that is no model's folder: it says what the path is, and what to do."""
    if not path.is_file():
        return f"{path} is {'a broken link' if path.is_symlink() else 'no folder'}: name the folder of a model."
    with open(path, "rb") as file:
        head = file.read(512)
    holds = f"the zoo loads the folder that holds {CONFIG} and {WEIGHTS}"
    if (path.parent / CONFIG).is_file() and (path.parent / WEIGHTS).is_file():
        holds = f"load its folder, {path.parent}"
    if is_torch(head):
        kind = f"a pickle or an archive, as torch writes: zoo.arrays({str(path)!r}) gives its arrays, and {holds}"
    elif head[8:9] == b"{" or path.suffix in (".safetensors", ".json"):
        kind = f"one file of a model: {holds}"
    elif b"\x81" <= head[:1] <= b"\x8f" and head[1:4] not in (b"HDF", b"PNG"):  # a dictionary in msgpack
        kind = f"no folder, and may be a checkpoint of audax: zoo.convert({str(path)!r}, folder) makes a folder of it"
    else:
        kind = f"a file, and no model: {holds}; zoo.read(path, sample_rate) reads a recording"
    return f"{path} is {kind}."


def is_torch(head: bytes) -> bool:
    """Whether a file with these first 512 bytes may be a torch file: a zip archive, a row of pickles, or a tar."""
    is_pickle = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if head[4:9] == b"\0\0\0\0{":  # safetensors: a size of 640 begins like a pickle
        return False
    return is_pickle or head[:4] in (b"PK\3\4", b"PK\5\6") or head[257:262] == b"ustar"


def bounded(path: pathlib.Path) -> pathlib.Path:
    """The path, unchanged. Raises ValueError if the file is too large for its name."""
    size = path.stat().st_size
    if size > most_bytes(path.name):
        raise ValueError(too_large(str(path), path.name, size))
    return path


def too_large(where: str, file: str, size: int) -> str:
    """The error message for a file of `size` bytes, which is too large."""
    return (
        f"{where} has {size / 1e6:.0f} MB, and the zoo reads {file} up to {most_bytes(file) / 1e6:.0f} MB: this is no "
        "model of the zoo."
    )


def read_text(path: pathlib.Path) -> str:
    """The text of a file. Raises ValueError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 (byte {error.start}): fetch or copy it again.") from None


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text. Raises ValueError that names `where` for invalid JSON or too many lists and objects."""
    if text.count("[") + text.count("{") > 10_000:
        raise ValueError(f"{where} holds more than 10000 lists and objects, more than any description of a model.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5000 digits also raises ValueError
        raise ValueError(f"{where} is not JSON ({str(error) or type(error).__name__}).") from None


def _in_hub_cache(link: pathlib.Path) -> bool:
    """Whether a path is a link into `blobs`, as the Hub's client puts into `models--owner--name/snapshots/<commit>`."""
    snapshot = link.parent
    if not link.is_symlink() or snapshot.parent.name != "snapshots":
        return False
    target = pathlib.Path(os.path.normpath(snapshot / os.readlink(link)))
    return target.parent == snapshot.parents[1] / "blobs" and link.resolve() == target  # the target is not another link
