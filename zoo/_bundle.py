"""The arrays of a TensorFlow checkpoint, read without TensorFlow and without running anything.

`variables.index` is a table of LevelDB's: blocks of names and messages of protobuf, which say of each array its type,
its shape and where it lies in `variables.data-00000-of-00001` beside it. Nothing is compressed.
"""

import functools
import math
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import ml_dtypes  # noqa: F401, which gives NumPy bfloat16
import numpy as np

from ._files import bounded, line
from ._tensors import AXES, LARGEST
from ._torch import ARRAYS, LETTERS, Leaf

MAGIC = 0xDB4775248B80FB57  # the table's last 8 bytes
FOOTER = 48
SHARDS, MESSAGE = 1 << 10, 1 << 16  # at most, of files and of bytes of a message
REPEATED, NAMES = 16, 1 << 24  # bytes of all names: a name is written whole at least once in 16
TYPES = {  # by TensorFlow's number, those of NumPy: safetensors' name, and ours
    1: ("F32", "float32"),
    2: ("F64", "float64"),
    3: ("I32", "int32"),
    4: ("U8", "uint8"),
    5: ("I16", "int16"),
    6: ("I8", "int8"),
    8: ("C64", "complex64"),
    9: ("I64", "int64"),
    10: ("BOOL", "bool"),
    14: ("BF16", "bfloat16"),
    17: ("U16", "uint16"),
    18: ("C128", "complex128"),
    19: ("F16", "float16"),
    22: ("U32", "uint32"),
    23: ("U64", "uint64"),
}
OTHERS = {11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16"}
OTHERS |= {24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4"}


class Fault(Exception):
    """What is wrong with a file."""


class Odd(Exception):
    """The type of an array in a good file that the zoo does not read."""


def is_bundle(path: pathlib.Path) -> bool:
    """Whether a file is called as the table of a checkpoint is."""
    return path.suffix == ".index"


def shards(path: pathlib.Path) -> list[str]:
    """The names of the files beside the table that hold the arrays. Raises ValueError for what is no such table."""
    return _opened(path)[1]


def bundle_file(path: pathlib.Path) -> dict[str, Leaf]:
    """The arrays of a checkpoint by their names, of which `path` is the table; texts and the like are left out.

    Raises ValueError with one sentence for what is no such table, for one that contradicts itself or its files, and
    for a type of numbers that weights do not have. Raises FileNotFoundError for a file that is not beside it.
    """
    table, names = _opened(path)
    files = [path.with_name(name) for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{path} is a table of arrays, which lie in {missing[0]} beside it: copy that, too.")
    sizes = [file.stat().st_size for file in files]
    leaves = {}
    for name, content in table.items():
        if name == "":
            continue
        try:
            leaf = _leaf(_message(content), files, sizes)
        except Fault as fault:
            raise ValueError(_broken(path, f"{line(name)}: {fault}")) from None
        except Odd as kind:
            raise ValueError(
                f"{path} holds {line(name)} in {kind}, which the zoo does not read: save it in float32, float16 or "
                "bfloat16."
            ) from None
        if leaf is not None:
            leaves[name] = leaf
    return leaves


def _opened(path: pathlib.Path) -> tuple[dict[str, memoryview], list[str]]:
    """What the table says, by name, and the names of the files beside it."""
    try:
        table = dict(_table(memoryview(bounded(path).read_bytes())))
        if "" not in table:
            raise Fault("it has no header")
        header = _message(table[""])
        count, order = _number(header, 1), _number(header, 2)
        if not 0 < count <= SHARDS or order != 0:
            raise Fault("it counts no files, or was written on a machine with another order of bytes")
    except (Fault, UnicodeDecodeError) as fault:
        raise ValueError(_broken(path, str(fault))) from None
    return table, [f"{path.stem}.data-{index:05d}-of-{count:05d}" for index in range(count)]


def _broken(path: pathlib.Path, fault: str) -> str:
    return f"{path} is not the whole table of a TensorFlow checkpoint ({line(fault)}): fetch or copy it again."


def _leaf(message: dict[int, list[Any]], files: list[pathlib.Path], sizes: list[int]) -> Leaf | None:
    """The array that a message describes; None for one of texts or of other things that are no numbers."""
    kind = _number(message, 1)
    if kind in (7, 20, 21):  # texts, resources, variants
        return None
    if kind in OTHERS:
        raise Odd(OTHERS[kind])
    if kind not in TYPES:
        raise Fault(f"its type has the number {kind}, which TensorFlow does not have")
    shape = tuple(_number(_message(axis), 1) for axis in _message(message.get(2, [b""])[0]).get(2, []))
    letters, dtype = TYPES[kind]
    shard, start, size = (_number(message, field) for field in (3, 4, 5))
    if message.get(7) or len(shape) > AXES or math.prod(max(axis, 1) for axis in shape) > LARGEST:
        raise Fault("it is divided, or has a shape that no array has")
    if size != math.prod(shape) * np.dtype(dtype).itemsize or shard >= len(files) or start + size > sizes[shard]:
        raise Fault("its bytes are not as many as its shape needs, or lie behind the end of the file")
    return Leaf(shape, letters, functools.partial(_read, files[shard], start, dtype, shape))


def _read(file: pathlib.Path, start: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.fromfile(file, np.uint8, size, offset=start).view(np.dtype(dtype)).reshape(shape)


# LevelDB's table -----------------------------------------------------------------------------------------------------


def _table(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """The names and their contents. What they take together is bounded by the file's size: blocks lie one behind the
    other, and of names, whose beginnings are left out, there is a limit."""
    if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise Fault("it does not end as one")
    places, position = [], len(data) - FOOTER
    for _ in range(4):  # of the table of blocks of another kind, and of that of the blocks
        number, position = _varint(data, position)
        places.append(number)
    count, letters, end = 0, 0, 0
    for _, handle in _block(data, places[2], places[3]):
        start, after = _varint(handle, 0)
        size, _ = _varint(handle, after)
        if start < end:
            raise Fault("a block lies in another, or before it")
        end = start + size
        for name, content in _block(data, start, size):
            count, letters = count + 1, letters + len(name)
            if count > ARRAYS or letters > min(REPEATED * len(data), NAMES):
                raise Fault("it has more names, or longer ones, than any model")
            yield name.decode(), content


def _block(data: memoryview, start: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    """The entries of a block, each of whose names begins as the one before does."""
    if start + size + 5 > len(data) or size < 4 or data[start + size] != 0:
        raise Fault("a block lies behind its end, or is compressed")
    block = data[start : start + size]
    end = size - 4 * (1 + struct.unpack("<I", block[-4:])[0])
    name, position = b"", 0
    while position < end:
        shared, position = _varint(block, position)
        own, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(name) or position + own + length > end or shared + own > LETTERS:
            raise Fault(f"an entry lies behind the end of its block, or has a name beyond {LETTERS} letters")
        name = name[:shared] + bytes(block[position : position + own])
        position += own
        yield name, block[position : position + length]
        position += length
    if position != end:
        raise Fault("a block has no end")


# Protobuf ------------------------------------------------------------------------------------------------------------


def _message(data: Any) -> dict[int, list[Any]]:
    """The fields of a message by their numbers: whole numbers, and bytes. Raises Fault for a number in its place."""
    if not isinstance(data, bytes | memoryview) or len(data) > MESSAGE:
        raise Fault("a number stands where a message should, or a message is longer than any of an array")
    fields: dict[int, list[Any]] = {}
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
            case 2:
                size, position = _varint(data, position)
                value, position = data[position : position + size], position + size
            case 1 | 5 as width:
                size = 8 if width == 1 else 4
                value, position = data[position : position + size], position + size
            case _:
                raise Fault("a message is none of protobuf's")
        if position > len(data):
            raise Fault("a message is cut")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(message: dict[int, list[Any]], field: int) -> int:
    """The whole number in a field, 0 where it is left out."""
    value = message.get(field, [0])[-1]
    if not isinstance(value, int) or value >= 1 << 62:
        raise Fault("a field holds no number, or too large a one")
    return value


def _varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """The number that begins there, 7 bits a byte, and the position behind it."""
    number = 0
    for index in range(10):
        if position >= len(data):
            raise Fault("it is cut")
        byte = data[position]
        number, position = number | (byte & 0x7F) << 7 * index, position + 1
        if byte < 0x80:
            return number, position
    raise Fault("a number has no end")
