"""The arrays of a TensorFlow checkpoint, read without TensorFlow and without running anything.

`variables.index` is a LevelDB table: blocks of names and protobuf messages. The message of an array gives its type, its
shape and its place in `variables.data-00000-of-00001` beside the table. Nothing is compressed.
"""

import functools
import math
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import ml_dtypes  # noqa: F401, gives NumPy bfloat16
import numpy as np

from ._files import bounded, line
from ._tensors import AXES, LARGEST
from ._torch import ARRAYS, LETTERS, Leaf

MAGIC = 0xDB4775248B80FB57  # the table's last 8 bytes
FOOTER = 48
SHARDS, MESSAGE = 1 << 10, 1 << 16  # the largest number of files, and of bytes in a message
PERIOD, NAMES = 16, 1 << 24  # LevelDB writes every 16th name whole; the largest number of bytes in all names
TYPES = {  # TensorFlow's number of a type: safetensors' name, and NumPy's
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
    """The fault of a file."""


class Odd(Exception):
    """An array in an intact file has a type that the zoo does not read."""


def is_bundle(path: pathlib.Path) -> bool:
    """Whether a file has the suffix of a checkpoint's table."""
    return path.suffix == ".index"


def shards(path: pathlib.Path) -> list[str]:
    """The names of the files with the arrays, which lie beside the table. Raises ValueError if `path` is no table."""
    return _opened(path)[1]


def bundle_file(path: pathlib.Path) -> dict[str, Leaf]:
    """The arrays of a checkpoint by their names, without texts and the like. `path` is the table of the checkpoint.

    Raises ValueError with one sentence if the file is no such table, if it contradicts itself or its files, and for a
    type of numbers that weights do not have. Raises FileNotFoundError if a file beside the table is missing.
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
    """The contents of the table by name, and the names of the files beside it."""
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
    """The array that a message describes; None if the elements are texts or other objects that are not numbers."""
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
    """The names and their contents.

    The size of the file bounds their total size, because blocks may not overlap. The names have a limit of their own,
    because the file leaves out beginnings that names have in common.
    """
    if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise Fault("it does not end as one")
    places, position = [], len(data) - FOOTER
    for _ in range(4):  # start and size of the table of meta blocks, and of the table of blocks
        number, position = _varint(data, position)
        places.append(number)
    count, letters, end = 0, 0, 0
    for _, handle in _block(data, places[2], places[3]):
        start, offset = _varint(handle, 0)
        size, _ = _varint(handle, offset)
        if start < end:
            raise Fault("a block lies in another, or before it")
        end = start + size
        for name, content in _block(data, start, size):
            count, letters = count + 1, letters + len(name)
            if count > ARRAYS or letters > min(PERIOD * len(data), NAMES):
                raise Fault("it has more names, or longer ones, than any model")
            yield name.decode(), content


def _block(data: memoryview, start: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    """The entries of a block. The beginning of a name is stored as a number of letters of the name before it."""
    if start + size + 5 > len(data) or size < 4 or data[start + size] != 0:
        raise Fault("a block lies behind its end, or is compressed")
    block = data[start : start + size]
    end = size - 4 * (1 + struct.unpack("<I", block[-4:])[0])
    name, position = b"", 0
    while position < end:
        common, position = _varint(block, position)
        rest, position = _varint(block, position)
        length, position = _varint(block, position)
        if common > len(name) or position + rest + length > end or common + rest > LETTERS:
            raise Fault(f"an entry lies behind the end of its block, or has a name beyond {LETTERS} letters")
        name = name[:common] + bytes(block[position : position + rest])
        position += rest
        yield name, block[position : position + length]
        position += length
    if position != end:
        raise Fault("a block has no end")


# Protobuf ------------------------------------------------------------------------------------------------------------


def _message(data: Any) -> dict[int, list[Any]]:
    """The fields of a message, whole numbers or bytes, by field number. Raises Fault if `data` is a number."""
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
    """The whole number in a field; 0 if the field is left out."""
    value = message.get(field, [0])[-1]
    if not isinstance(value, int) or value >= 1 << 62:
        raise Fault("a field holds no number, or too large a one")
    return value


def _varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """The number at a position, stored with 7 bits per byte, and the position behind it."""
    number = 0
    for index in range(10):
        if position >= len(data):
            raise Fault("it is cut")
        byte = data[position]
        number, position = number | (byte & 0x7F) << 7 * index, position + 1
        if byte < 0x80:
            return number, position
    raise Fault("a number has no end")
