"""Torch files whose archives lie, are cut short, or have other bytes: each is refused in one sentence."""

import struct

import numpy as np
import pytest
import torch_files
from torch_files import NUMBERS, expect_refusal, golden, holding, number, pack, row, storage, tensor, text

import zoo

file = torch_files.file


def claim(data=NUMBERS, own=None, listing=None, **more):
    """An entry with other numbers in its two headers, or in both."""
    both = {key: more.pop(key) for key in ("flags", "method", "packed", "size") if key in more}
    return {"data": data, "local": both | (own or {}), "central": both | (listing or {})} | more


PICKLED = holding(text("a"), tensor())
GOOD = {"a/data.pkl": PICKLED, "a/data/0": NUMBERS}
PLACE = 2 * (30 + len("a/data/00")) + len(PICKLED) + len(NUMBERS)  # of the list, or one byte before
ONES = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}
LIES = {  # of the entry a/data/0, and what is said of it
    "another name": (claim(local_name=b"a/data/1"), "is not what the list says"),
    "another size": (claim(own={"size": 8, "packed": 8}), "is not what the list says"),
    "another way of packing": (claim(own={"method": 8}), "is not what the list says"),
    "other flags": (claim(own={"flags": 8}), "is not what the list says"),
    "a size beyond the file": (claim(size=1 << 30, packed=1 << 30), "overlap"),
    "a size beyond its bytes": (claim(listing={"size": 48}), "packed in another way"),
    "a place beyond the file": (claim(listing={"place": 1 << 30}), "makes no sense"),
    "a place in the list": (claim(listing={"place": PLACE}), "is not what the list says"),
    "a place of another": (claim(listing={"place": 0}), "is not what the list says"),
    "into the list": (claim(size=25, packed=25), "overlap"),
    "encrypted": (claim(flags=1), "is encrypted"),
    "encrypted well": (claim(flags=0x41), "is encrypted"),
    "bzip2": (claim(method=12), "packed in another way"),
    "64 bits missing": (claim(listing=ONES), "is not what the list says"),
    "64 bits that lie": (
        claim(listing=ONES, extra=struct.pack("<2H2Q", 1, 16, 1 << 62, 1 << 62)),
        "not what the list",
    ),
    "a place of 64 bits": (
        claim(listing={"place": 0xFFFFFFFF}, extra=struct.pack("<2HQ", 1, 8, (1 << 64) - 1)),
        "makes no sense",
    ),
    "64 bits too few": (claim(listing=ONES, extra=struct.pack("<2HQ", 1, 8, 24)), "makes no sense"),
    "64 bits too long": (claim(listing=ONES, extra=struct.pack("<2H2Q", 1, 999, 24, 24)[:12]), "makes no sense"),
    "empty extra fields": (claim(listing=ONES, extra=b"\0\0\0\0" * 99), "is not what the list says"),
    "no deflate": (claim(b"\xff" * 24, method=8), "cannot be unpacked"),
    "a packed size too small": (claim(deflate=True, size=23), "smaller than it should be"),
    "a packed size too large": (claim(deflate=True, size=99), "another size than it claims"),
}
ARCHIVES = {
    "two of one name": ([*GOOD.items(), ("a/data/0", NUMBERS)], "two entries have one name"),
    "two pickles of one name": ([*GOOD.items(), ("a/data.pkl", PICKLED)], "two entries have one name"),
    "two pickles": (GOOD | {"b/data.pkl": PICKLED}, "more than one folder"),
    "a pickle within": (GOOD | {"a/b/data.pkl": PICKLED}, "more than one folder"),
    "a second folder": (GOOD | {"b/data/1": NUMBERS}, "more than one folder"),
    "a name that leads out": (GOOD | {"a/../../b": NUMBERS}, "leads out"),
    "an absolute name": (GOOD | {"/etc/b": NUMBERS}, "leads out"),
    "a name with backslashes": (GOOD | {"a\\..\\b": NUMBERS}, "leads out"),
    "a name with a zero": (GOOD | {"a/b\0": NUMBERS}, "leads out"),
    "a name that is no UTF-8": (GOOD | {"a/b": {"data": b"", "name": "a/\udcff"}}, "makes no sense"),
    "overlapping": ({"a/data.pkl": claim(PICKLED, size=999, packed=999), "a/data/0": bytes(999)}, "overlap"),
    "a bomb": (GOOD | {"a/data/1": {"data": bytes(1 << 24), "deflate": True}}, "100 times its size"),
    "another order of bytes": (GOOD | {"a/byteorder": b"big"}, "order of bytes"),
    "no pickle": ({"a/data/0": NUMBERS}, "no data.pkl"),
    "a program": (GOOD | {"a/constants.pkl": b"", "a/code/__torch__.py": b""}, "TorchScript"),
}
LONG_END = struct.Struct("<4sQ2H2I4Q4sIQI")
ENDS = {
    "too many": {"count": 3},
    "too few": {"count": 1},
    "65535": {"count": 0xFFFF},
    "a list elsewhere": {"start": 0},
    "a list beyond": {"start": 1 << 31},
    "a list too long": {"size": 1 << 31},
    "bytes behind the list": {"insert": bytes(9)},
    "64 bits beyond": {"insert": LONG_END.pack(b"PK\6\6", 44, 0, 0, 0, 0, *[1 << 60] * 4, b"PK\6\7", 0, 1 << 60, 1)},
    "64 bits far beyond": {"insert": struct.pack("<56x4sIQI", b"PK\6\7", 0, (1 << 64) - 1, 1)},
    "64 bits that lie": {"insert": LONG_END.pack(b"PK\6\6", 44, 0, 0, 0, 0, *[1 << 60] * 4, b"PK\6\7", 0, 0, 1)},
}


def test_the_archive_made_here_is_right(file):
    for content in (pack(GOOD), pack(GOOD, comment=b"a comment")):
        np.testing.assert_array_equal(zoo.arrays(file(content))["a"], range(6))


@pytest.mark.parametrize("entry, part", LIES.values(), ids=LIES.keys())
def test_an_entry_that_lies_is_refused(file, entry, part):
    def read(path):
        return dict(zoo.arrays(path))

    expect_refusal(file(pack(GOOD | {"a/data/0": entry})), part, read=read)


@pytest.mark.parametrize("entries, part", ARCHIVES.values(), ids=ARCHIVES.keys())
def test_an_archive_that_torch_does_not_write_is_refused(file, entries, part):
    expect_refusal(file(pack(entries)), part)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_an_end_of_an_archive_that_lies_is_refused(file, end):
    expect_refusal(file(pack(GOOD, end)))


def test_bytes_in_front_of_an_archive_or_behind_it_are_refused(file):
    expect_refusal(file(b"PK\3\4" + pack(GOOD)))
    expect_refusal(file(pack(GOOD) + b"\0"))


def test_an_old_file_that_lies_is_refused(file):
    source = storage(more=b"N")
    code = holding(text("a"), tensor(source=source))
    np.testing.assert_array_equal(zoo.arrays(file(row(code)))["a"], range(6))
    beyond = b"(" + text("1") + number(4) + number(3) + b"t"
    twice = holding(
        text("a"),
        tensor(source=source),
        text("b"),
        tensor(0, (3,), source=storage("torch.DoubleStorage", count=3, more=b"N")),
    )
    for content in (
        row(code, magic=7),
        row(code, little=False),
        row(code, keys=()),
        row(code, keys=("0", "0")),
        row(code, keys=("0", "1")),
        row(code, keys=([],)),
        row(code, storages=NUMBERS[:-4]),
        row(code)[:-4],
        row(holding(text("a"), tensor(source=storage(count=1 << 40, more=b"N")))),
        row(holding(text("a"), tensor(0, (3,), source=storage(more=beyond)))),
        row(twice),
    ):
        expect_refusal(file(content))


@pytest.mark.parametrize("name", ["zip", "row"])
def test_a_file_that_is_cut_short_is_refused(file, name):
    content = golden(name)
    for size in range(1, len(content), 97):
        expect_refusal(file(content[:size]))


@pytest.mark.parametrize("name", ["protocol2", "protocol4", "row", "lightning"])
def test_a_file_with_any_bytes_changed_is_read_or_refused(file, name):
    generator, content = np.random.default_rng(0), golden(name)
    for _ in range(150):
        variant = bytearray(content)
        for place in generator.integers(len(content), size=generator.integers(1, 5)):
            variant[place] = generator.integers(256)
        try:
            arrays = zoo.arrays(file(bytes(variant)))
        except ValueError as error:
            assert "\n" not in str(error) and str(error).endswith("."), error
        else:
            assert all(isinstance(arrays[key], np.ndarray) for key in arrays)
