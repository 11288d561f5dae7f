"""TensorFlow's tables that ask for more memory than they have bytes, and the types of their arrays."""

import struct
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from zoo._bundle import MAGIC, bundle_file

HEADER = b"\x08\x01"  # one file of arrays


def varint(number):
    digits = b""
    while number > 0x7F:
        digits, number = digits + bytes([number & 0x7F | 0x80]), number >> 7
    return digits + bytes([number])


def entry(shared, name, content):
    return varint(shared) + varint(len(name)) + varint(len(content)) + name + content


def array(kind, shape, size):
    """The message about an array that begins with the file."""
    axes = b"".join(b"\x12" + varint(len(axis)) + axis for axis in (b"\x08" + varint(each) for each in shape))
    return b"\x08" + varint(kind) + b"\x12" + varint(len(axes)) + axes + b"\x28" + varint(size)


def write(folder, *entries, handles=None, data=b""):
    """A table of one block of entries, to which all handles point, unless others are given."""
    block = b"".join((entry(0, b"", HEADER), *entries)) + struct.pack("<I", 0)
    handles = [(0, len(block))] if handles is None else [(start, len(block) - start) for start in handles]
    index = b"".join(entry(0, b"", varint(start) + varint(size)) for start, size in handles) + struct.pack("<I", 0)
    places = b"".join(map(varint, (0, 0, len(block) + 5, len(index))))
    path = folder / "variables.index"
    path.write_bytes(block + bytes(5) + index + bytes(5) + places.ljust(40, b"\0") + struct.pack("<Q", MAGIC))
    (folder / "variables.data-00000-of-00001").write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "dtype", "letters"),
    [(1, "float32", "F32"), (14, "bfloat16", "BF16"), (6, "int8", "I8"), (10, "bool", "BOOL"), (19, "float16", "F16")],
)
def test_arrays_have_their_types(tmp_path, kind, dtype, letters):
    numbers = np.array([1, 0, 1], jnp.dtype(dtype))
    path = write(tmp_path, entry(0, b"a", array(kind, (3, 1), numbers.nbytes)), data=numbers.tobytes())
    leaf = bundle_file(path)["a"]
    assert (leaf.dtype, leaf.shape, leaf.read().dtype) == (letters, (3, 1), jnp.dtype(dtype))
    np.testing.assert_array_equal(leaf.read()[:, 0], numbers)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (array(11, (3,), 3), r"index holds a in qint8, which the zoo does not read: save it in float32, float16 or bf"),
        (array(99, (3,), 3), r"\(a: its type has the number 99, which TensorFlow does not have\): fetch or copy it"),
        (array(1, (0, 1 << 61), 0), r"\(a: it is divided, or has a shape that no array has\)"),
        (array(1, (0, 1 << 30, 1 << 30), 0), r"\(a: it is divided, or has a shape that no array has\)"),
        (b"\x08\x01\x10\x05", r"\(a: a number stands where a message should"),
        (b"\x08\x01" * (1 << 16), r"a message is longer than any of an array"),
    ],
)
def test_messages_that_describe_no_array_are_told(tmp_path, content, fault):
    with pytest.raises(ValueError, match=fault) as raised:
        bundle_file(write(tmp_path, entry(0, b"a", content), data=bytes(8)))
    assert "Type-check" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_table_takes_no_more_memory_than_a_multiple_of_its_size(tmp_path):
    long = [entry(0, b"x" * 996, b""), *(entry(996, b"%04x" % number, b"") for number in range(20_000))]
    nested = entry(0, b"a", bytes(1 << 20))
    for entries, handles, fault in (
        (long, None, "it has more names, or longer ones, than any model"),
        ([nested], [0, *([len(entry(0, b"", HEADER))] * 100)], "a block lies in another, or before it"),
    ):
        path = write(tmp_path, *entries, handles=handles)
        tracemalloc.start()
        with pytest.raises(ValueError, match=fault):
            bundle_file(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 24 * path.stat().st_size
