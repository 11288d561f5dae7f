"""Torch files whose pickles mean harm, or lie about their arrays: each is refused in one sentence."""

import os
import pathlib
import pickle
import struct

import numpy as np
import pytest
import torch_files
from torch_files import archive, expect_refusal, global_name, holding, numbers, row, storage, tensor, text

import zoo

file = torch_files.file


class Harm:
    """What Python's own unpickler would run."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Text(str):
    def __reduce__(self):
        return os.mkdir, ("harm",)


CALLS = {
    "os.system": Harm(os.system, "touch harm"),
    "builtins.eval": Harm(eval, "open('harm', 'w')"),
    "builtins.exec": Harm(exec, "open('harm', 'w')"),
    "builtins.open": Harm(open, "harm", "w"),
    "builtins.getattr": Harm(getattr, 1, "real"),
    "os.mkdir": Text("a"),
    "pathlib.Path.touch": Harm(pathlib.Path.touch, pathlib.Path("harm")),
    "pickle.loads": Harm(pickle.loads, pickle.dumps(Harm(os.mkdir, "harm"))),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_what_python_would_call_is_refused(file, tmp_path, monkeypatch, call, protocol):
    monkeypatch.chdir(tmp_path)
    code = pickle.dumps({"a": call}, protocol)
    for content in (archive(code), row(code), code):
        expect_refusal(file(content), " names ")
    assert not (tmp_path / "harm").exists()


LONG = struct.pack("<I", 0xFFFFFFF0)
INSTRUCTIONS = {
    "GLOBAL": b"cos\nsystem\n(X\x02\0\0\0idtR.",
    "GLOBAL of torch": b"ctorch\nload\n(X\x01\0\0\0atR.",
    "GLOBAL of torch's hub": b"ctorch.hub\nload\n)R.",
    "GLOBAL that loads bytes": b"ctorch.storage\n_load_from_bytes\n(C\x01atR.",
    "GLOBAL with control characters": b"c\x1b[2J\x07os\nsystem\n.",
    "GLOBAL that is long": b"c" + b"a" * 100_000 + b"\nb\n.",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93X\x02\0\0\0id\x85R.",
    "STACK_GLOBAL of numbers": b"K\1K\2\x93.",
    "STACK_GLOBAL of lists": b"]]\x93.",
    "INST": b"(X\x02\0\0\0idios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nX\x02\0\0\0ido.",
    "OBJ of a setting": b"(cargparse\nNamespace\no.",
    "NEWOBJ": b"cos\nsystem\n)\x81.",
    "NEWOBJ of ours": b"ccollections\nOrderedDict\n)\x81.",
    "NEWOBJ_EX": b"cargparse\nNamespace\n)}\x92.",
    "REDUCE of a text": b"X\x02\0\0\0os)R.",
    "REDUCE of a dtype": b"ctorch\nfloat32\n)R.",
    "REDUCE of a list": b"ccollections\nOrderedDict\n]R.",
    "REDUCE of too many": b"ccollections\nOrderedDict\n(K\1K\2K\3tR.",
    "REDUCE of pairs that are none": b"ccollections\nOrderedDict\n(](K\1K\2ee\x85R.",
    "REDUCE of itself": b"ctorch._tensor\n_rebuild_from_type_v2\nq\0(h\0NN)tR.",
    "BUILD of a list": b"]}b.",
    "BUILD of a text": b"X\1\0\0\0a}b.",
    "BUILD of a function": b"ccollections\nOrderedDict\n}b.",
    "BUILD of a storage": storage() + b"}b.",
    "BUILD of a dtype": b"cnumpy\ndtype\n(X\2\0\0\0f4I00\nI01\ntRNb.",
    "EXT1": b"\x82\1.",
    "EXT2": b"\x83\1\0.",
    "EXT4": b"\x84\1\0\0\0.",
    "PERSID": b"Pstorage\n.",
    "BINPERSID of a text": b"X\1\0\0\0aQ.",
    "BINPERSID of little": b"X\1\0\0\0a\x85Q.",
    "BINPERSID of a module": b"(X\6\0\0\0moduleNNNNtQ.",
    "BINPERSID without a type": b"(X\7\0\0\0storageNX\1\0\0\0" + b"0X\3\0\0\0cpuK\6tQ.",
    "POP": b"N0.",
    "DUP": b"N2.",
    "BYTEARRAY8": b"\x96\1\0\0\0\0\0\0\0a.",
    "NEXT_BUFFER": b"\x97.",
    "an empty stack": b"a.",
    "no mark": b"t.",
    "a mark that stays": b"N(.",
    "two values": b"NN.",
    "nothing": b".",
    "no end": b"N",
    "an unknown instruction": b"\xff.",
    "APPEND to a text": b"X\1\0\0\0aNa.",
    "APPENDS to a dictionary": b"}(Ne.",
    "SETITEM of a list": b"]K\0Ns.",
    "SETITEMS of three": b"}(K\0K\1K\2u.",
    "a key that is a list": b"}]Ns.",
    "keys of one hash": b"}"
    + b"".join(b"\x8a\x09" + (i * (2**61 - 1)).to_bytes(9, "little") + b"Ns" for i in range(1, 99))
    + b".",
    "a memo that is empty": b"h\0.",
    "LONG_BINGET": b"j\xff\xff\xff\x7f.",
    "LONG4": b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "LONG4 that lies": b"\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"\x7f.",
    "LONG4 below 0": b"\x8b" + struct.pack("<i", -1) + b".",
    "INT of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "LONG of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "BINUNICODE that lies": b"X" + LONG + b"a.",
    "BINUNICODE8 that lies": b"\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
    "BINBYTES8 that lies": b"\x8e" + struct.pack("<Q", (1 << 64) - 1) + b"a.",
    "BINUNICODE that is no UTF-8": b"X\1\0\0\0\xff.",
    "BINSTRING that lies": b"T\xff\xff\xff\x7fa.",
    "FRAME that lies": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "STRING": b"S'a\n.",
}


@pytest.mark.parametrize("code", INSTRUCTIONS.values(), ids=INSTRUCTIONS.keys())
def test_a_pickle_that_torch_does_not_write_is_refused(file, code):
    expect_refusal(file(archive(b"\x80\x02" + code)))
    expect_refusal(file(row(b"\x80\x02" + code)))
    expect_refusal(file(b"\x80\x02" + code))


def test_a_memo_of_any_place_takes_no_room(file):
    content = b"\x80\x02}r\xff\xff\xff\xff" + text("a") + tensor() + b"s."
    np.testing.assert_array_equal(zoo.arrays(file(archive(content)))["a"], range(6))


DEEP = b")" + b"\x85" * 200_000  # a tuple in a tuple in ..., which Python cannot hash
HALVES = [b"h%ch%c" % (i, i) for i in range(50)]
BOMBS = {
    "deep lists": (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", "nested deeper"),
    "deep tuples": (b"\x80\x02" + DEEP + b".", "nested deeper"),
    "deep keys": (b"\x80\x02}" + DEEP + b"Ns.", "keys are neither texts nor numbers"),
    "a deep key of a storage": (b"\x80\x02" + storage().replace(text("0"), DEEP) + b".", "is not described as one"),
    "a list in itself": (b"\x80\x02]q\0h\0a.", "nested deeper"),
    "laughs": (
        b"\x80\x02(]q\0" + b"".join(b"](%seq%c" % (half, i + 1) for i, half in enumerate(HALVES)) + b"t.",
        "than any model does",
    ),
    "laughs in dictionaries": (
        b"\x80\x02(]q\0" + b"".join(b"}(K\0h%cK\1h%cuq%c" % (i, i, i + 1) for i in range(50)) + b"t.",
        "than any model does",
    ),
    "a million levels": (b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".", "instructions, more than any model"),
    "long names": (holding(text("a" * 2000), tensor()), "letters"),
    "long names below": (holding(text("a" * 600), b"}" + text("b" * 600) + b"]s"), "letters"),
    "arrays": (b"\x80\x02(" + tensor() + b"q\0" + b"h\0" * (1 << 16) + b"t.", "arrays, more than any model"),
}


@pytest.mark.parametrize("code, part", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_refused(file, code, part):
    expect_refusal(file(archive(code)), part)


SIZES = {
    "a huge size": tensor(shape=(1 << 60,)),
    "huge sizes": tensor(shape=(1 << 40, 1 << 40), strides=(0, 0)),
    "a size repeated": tensor(shape=(1 << 25,), strides=(0,)),
    "a huge size of nothing": tensor(shape=(0, 1 << 40), strides=(0, 0)),
    "a size below 0": tensor(shape=(-1,)),
    "a stride below 0": tensor(5, strides=(-1,)),
    "an offset below 0": tensor(-1, (2,)),
    "an offset beyond": tensor(1),
    "an offset of nothing beyond": tensor(7, (0,)),
    "a huge offset": tensor(1 << 62, (1,)),
    "a stride beyond": tensor(shape=(2,), strides=(6,)),
    "strides beyond": tensor(shape=(2, 2, 2), strides=(3, 2, 1)),
    "a huge stride": tensor(shape=(2,), strides=(1 << 62,)),
    "more sizes than strides": tensor(shape=(2, 2)),
    "100 axes": tensor(shape=(1,) * 100, strides=(1,) * 100),
    "100000 axes": tensor(shape=(255,) * 100_000, strides=(0,) * 100_000),
    "a size that is a float": tensor(shape=()).replace(b"(t", b"(G" + struct.pack(">d", 2) + b"t", 1),
    "a size that is true": tensor(shape=()).replace(b"(t", b"(\x88t", 1),
    "a list of sizes": tensor(shape=()).replace(b"(t", b"]", 1),
    "a tensor of a text": tensor(source=text("0")),
    "a tensor of a tensor": tensor(source=tensor()),
    "a parameter of a text": global_name("torch._utils._rebuild_parameter") + b"(" + text("a") + b"\x89NtR",
    "a type that is none": tensor(rebuild="torch._utils._rebuild_tensor_v3", more=b"\x89NN"),
    "a storage beyond its entry": tensor(source=storage(count=7)),
    "a huge storage": tensor(source=storage(count=1 << 62)),
    "a storage below 0": tensor(source=storage(count=-1)),
    "a storage of wide numbers": tensor(source=storage("torch.DoubleStorage")),
    "a storage that is not there": tensor(source=storage(key="1")),
    "a storage elsewhere": tensor(source=storage(key="../data.pkl", count=1)),
    "a storage that is called otherwise": tensor(source=storage(mark="module")),
    "a storage of no type": tensor(source=storage("torch.WideStorage")),
    "a quantized storage": tensor(source=storage("torch.QInt8Storage")),
}


@pytest.mark.parametrize("value", SIZES.values(), ids=SIZES.keys())
def test_an_array_that_lies_is_refused(file, value):
    expect_refusal(file(archive(holding(text("a"), value))))


def test_an_array_of_numpy_that_lies_is_refused(file):
    def array(code, shape, data):
        kind = global_name("numpy.dtype") + b"(" + text(code) + b"\x89\x88tR(K\3" + text("<") + b"NNNtb"
        return (
            global_name("numpy.core.multiarray._reconstruct")
            + b"(NNNtR(K\1"
            + numbers(*shape)
            + kind
            + b"\x89"
            + data
            + b"tb"
        )

    eight = b"C\x08" + bytes(range(8))
    assert zoo.arrays(file(archive(holding(text("a"), array("u1", (2, 4), eight)))))["a"][1, 3] == 7
    for code, shape, data in (("f4", (3,), eight), ("f4", (1 << 60,), eight), ("f8", (-1,), eight), ("f4", (2,), b"N")):
        expect_refusal(file(archive(holding(text("a"), array(code, shape, data)))))
    expect_refusal(file(archive(holding(text("a"), array("f4", (255,) * 100_000, eight)))))
    for code in ("O8", "V8", "U2", "f4,f4", "g", "(1000000,)f4", "M8[s]"):  # which hold no numbers
        assert len(zoo.arrays(file(archive(holding(text("a"), array(code, (1,), eight)))))) == 0
