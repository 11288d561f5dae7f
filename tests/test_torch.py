"""Torch files read without torch: those that torch wrote, bit for bit, and those that mean harm, in one sentence."""

import json
import os
import pathlib
import pickle
import shutil
import struct
import zlib

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import zoo
from zoo._leaves import named_leaves

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "torch_files.npz")
READ = ("zip", "row", "protocol2", "protocol3", "protocol4", "protocol5", "alone", "list", "empty", "lightning")


@pytest.fixture
def file(tmp_path):
    """Writes a file and gives its path."""

    def write(content, name="weights.pt"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def refused(path, *parts, read=zoo.arrays):
    """That reading raises one sentence about the file, with these parts."""
    with pytest.raises(ValueError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"{path} ") and message.endswith(".") and len(message) < 600
    assert not any(ord(letter) < 32 for letter in message)
    for part in parts:
        assert part in message
    return message


def golden(name):
    return GOLDEN[f"file/{name}"].tobytes()


# What torch wrote


@pytest.mark.parametrize("name", READ)
def test_what_torch_wrote_is_read_bit_for_bit(file, name):
    arrays = zoo.arrays(file(golden(name)))
    wanted = {key.split("/", 2)[2]: GOLDEN[key] for key in GOLDEN.files if key.startswith(f"array/{name}/")}
    assert list(arrays) == list(wanted) and len(arrays) == len(wanted)
    for key, array in wanted.items():
        value = arrays[key]
        if key.endswith("bfloat16"):
            assert value.dtype == ml_dtypes.bfloat16
            value = value.view(np.int16)
        assert value.dtype == array.dtype.newbyteorder("=") and value.shape == array.shape, key
        assert value.tobytes() == array.astype(value.dtype).tobytes(), key


def test_names_are_keys_and_places_joined_by_dots(file):
    arrays = zoo.arrays(file(golden("zip")))
    for name in ("model.running_mean", "views.0", "7", "optimiser.state.0.exp_avg", "parameters.buffer", "numpy.array"):
        assert name in arrays, name
    assert "best" not in arrays and "notes.0" not in arrays and "numpy.texts" not in arrays
    with pytest.raises(KeyError):
        arrays["model"]
    assert list(zoo.arrays(file(golden("list")))) == ["0", "1.a.0"]
    assert list(zoo.arrays(file(golden("alone")))) == [""]


def test_what_stands_beside_the_arrays_is_in_the_settings(file):
    inner = b"}(" + text("depth") + number(12) + text("rate") + b"G?\xc0\0\0\0\0\0\0" + text("on") + b"\x88u"
    mixed = b"](" + text("x") + b"N" + tensor() + name("torch.device") + text("cpu") + b"\x85R" + b"}e"
    content = holding(text("cfg"), inner, text("list"), mixed, text("a"), tensor(), number(7), text("/m/7"))
    wanted = {"cfg": {"depth": 12, "rate": 0.125, "on": True}, "list": ["x", None, None, None, {}], 7: "/m/7"}
    for path in (file(archive(content)), file(row(content.replace(storage(), storage(more=b"N"))), "row.pt")):
        arrays = zoo.arrays(path)
        assert arrays.settings == wanted and list(arrays) == ["list.2", "a"]
        arrays.settings["cfg"].clear()
        assert arrays.settings == wanted
    assert zoo.arrays(file(golden("alone"))).settings == zoo.arrays(file(golden("list"))).settings == {}


def test_arrays_are_the_callers_own_and_outlive_the_file(file):
    path = file(golden("zip"))
    arrays = zoo.arrays(path)
    one = arrays["views.0"]
    one[:] = 0
    assert arrays["views.0"].any() and arrays["views.1"].any()
    with open(path, "r+b") as stream:
        stream.write(bytes(path.stat().st_size))
    assert not one.any()


def test_a_safetensors_file_is_read_by_the_same_name(tmp_path):
    values = {"a.b": np.arange(3, dtype=np.float32), "c": np.ones((2, 2), ml_dtypes.bfloat16)}
    save_file(values, tmp_path / "x.safetensors")
    arrays = zoo.arrays(str(tmp_path / "x.safetensors"))
    assert sorted(arrays) == ["a.b", "c"] and "a" not in arrays
    for name, value in values.items():
        np.testing.assert_array_equal(arrays[name], value)


def test_a_type_that_numpy_has_not_is_told_when_it_is_asked_for(file):
    header = b'{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},'
    header += b'"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}'
    path = file(struct.pack("<Q", len(header)) + header + b"\0\0\7", "x.safetensors")
    assert zoo.arrays(path)["b"] == [7]
    refused(path, "holds arrays in F8_E4M3", read=lambda path: zoo.arrays(path)["a"])


@pytest.mark.parametrize(
    "name, part",
    [
        ("sparse", "holds a sparse array"),
        ("csr", "holds a sparse array"),
        ("quantized", "holds a quantized array"),
        ("conjugated", "resolve_conj()"),
        ("module", "names torch.nn.modules.activation.ReLU"),
        ("half_complex", "names torch.complex32"),
        ("script", "is a program of TorchScript"),
    ],
)
def test_what_is_no_dense_array_is_told(file, name, part):
    refused(file(golden(name)), part)


def test_paths_that_are_no_file_of_weights_are_told(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt does not exist: name a"):
        zoo.arrays(tmp_path / "nowhere.pt")
    refused(tmp_path, "is a folder")
    refused(file(b""), "is neither a safetensors file nor one that torch wrote")
    refused(file(b"RIFF    WAVEfmt "), "is neither")
    refused(file(b"model".ljust(257, b"\0") + b"ustar\0" + bytes(400)), "is a tar archive, as torch 0.1 wrote")
    refused(file(pickle.dumps({"a": 1})), "is a pickle that torch did not write")
    refused(file(pack({"a.txt": b"text"})), "is a zip archive that torch did not write")


# By hand: what torch no longer writes, and what nobody should


def pack(entries, end=None, comment=b""):
    """A zip archive. An entry is its bytes, or a dictionary of these and fields of its two headers to be other ones."""
    body, listed = b"", b""
    for name, entry in entries.items() if isinstance(entries, dict) else entries:
        entry = entry if isinstance(entry, dict) else {"data": entry}
        data, label = entry["data"], entry.get("name", name).encode(errors="surrogateescape")
        content = zlib.compressobj(9, zlib.DEFLATED, -15) if entry.get("deflate") else None
        data_packed = content.compress(data) + content.flush() if content else data
        fields = {
            "flags": 0,
            "method": 8 if content else 0,
            "packed": len(data_packed),
            "size": len(data),
            "place": len(body),
        }
        own, central = fields | entry.get("local", {}), fields | entry.get("central", {})
        sizes = [struct.pack("<3I", 0, each["packed"], each["size"]) for each in (own, central)]
        local = struct.pack("<4s5H", b"PK\3\4", 20, own["flags"], own["method"], 0, 0) + sizes[0]
        extra = entry.get("extra", b"")
        listed += struct.pack("<4s6H", b"PK\1\2", 20, 20, central["flags"], central["method"], 0, 0) + sizes[1]
        listed += struct.pack("<5H2I", len(label), len(extra), 0, 0, 0, 0, central["place"]) + label + extra
        own_label = entry.get("local_name", label)
        body += local + struct.pack("<2H", len(own_label), 0) + own_label + data_packed
    fields = {"count": len(entries), "size": len(listed), "start": len(body)} | (end or {})
    tail = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, fields["count"], fields["count"], fields["size"], fields["start"], len(comment)
    )
    return body + listed + fields.get("insert", b"") + tail + comment


NUMBERS = struct.pack("<6f", *range(6))


def archive(pickled, storages=None, root="archive/"):
    storages = {"0": NUMBERS} if storages is None else storages
    return pack({f"{root}data.pkl": pickled} | {f"{root}data/{key}": data for key, data in storages.items()})


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"K" + bytes([value]) if 0 <= value < 256 else pickle.dumps(value, 2)[2:-1]


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def name(full):
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def storage(kind="torch.FloatStorage", key="0", count=6, mark="storage", more=b""):
    return b"(" + text(mark) + name(kind) + text(key) + text("cpu") + number(count) + more + b"tQ"


def tensor(offset=0, shape=(6,), strides=(1,), held=None, rebuild="torch._utils._rebuild_tensor_v2", more=None):
    more = b"\x89" + name("collections.OrderedDict") + b")R" if more is None else more
    held = storage() if held is None else held
    return name(rebuild) + b"(" + held + number(offset) + numbers(*shape) + numbers(*strides) + more + b"tR"


def holding(*pairs):
    """A pickle of a dictionary."""
    return b"\x80\x02}(" + b"".join(pairs) + b"u."


def row(content, keys=("0",), storages=NUMBERS, magic=0x1950A86A20F9469CFC6C, little=True):
    parts = [pickle.dumps(each, 2) for each in (magic, 1001, {"little_endian": little})]
    counts = struct.pack("<q", len(storages) // 4) + storages
    return b"".join(parts) + content + pickle.dumps(list(keys), 2) + counts


def test_the_files_made_here_are_right(file):
    path = file(archive(holding(text("a"), tensor(1, (2, 2), (2, 1)))))
    np.testing.assert_array_equal(zoo.arrays(path)["a"], [[1, 2], [3, 4]])
    path = file(row(holding(text("a"), tensor(1, (2, 2), (2, 1), storage(more=b"N")))))
    np.testing.assert_array_equal(zoo.arrays(path)["a"], [[1, 2], [3, 4]])


@pytest.mark.parametrize("root", ["archive/", "Cnn14_mAP=0.431/", "", "ä/"])
def test_the_name_of_the_folder_in_an_archive_does_not_matter(file, root):
    np.testing.assert_array_equal(zoo.arrays(file(archive(holding(text("a"), tensor()), root=root)))["a"], range(6))


def test_packed_entries_are_unpacked(file):
    entries = {"a/data.pkl": holding(text("a"), tensor()), "a/data/0": NUMBERS, "a/version": b"3\n"}
    packed = pack({name: {"data": data, "deflate": True} for name, data in entries.items()})
    np.testing.assert_array_equal(zoo.arrays(file(packed))["a"], range(6))


def test_parts_of_a_storage_in_an_old_file(file):
    part = b"(" + text("1") + number(2) + number(3) + b"t"
    path = file(
        row(holding(text("a"), tensor(1, (2,), (1,), storage(more=part)), text("b"), tensor(held=storage(more=b"N"))))
    )
    np.testing.assert_array_equal(zoo.arrays(path)["a"], [3, 4])
    np.testing.assert_array_equal(zoo.arrays(path)["b"], range(6))


def test_old_names_and_python_2(file):
    old = tensor(rebuild="torch._utils._rebuild_tensor", more=b"", held=storage("torch.cuda.FloatStorage", more=b"N"))
    pairs = name("collections.OrderedDict") + b"(](](U\x01a" + old + b"eetR"  # its pairs as lists, its texts as bytes
    np.testing.assert_array_equal(zoo.arrays(file(row(b"\x80\x02" + pairs + b".")))["a"], range(6))


def test_floats_of_8_bits(file):
    held = storage("torch.storage.UntypedStorage", count=24)
    more = b"\x89N" + name("torch.float8_e4m3fn")
    eight = zoo.arrays(
        file(archive(holding(text("a"), tensor(4, (4,), (1,), held, "torch._utils._rebuild_tensor_v3", more))))
    )
    assert eight["a"].dtype == ml_dtypes.float8_e4m3fn and eight["a"].tobytes() == NUMBERS[4:8]


def test_keys_that_are_equal_once_joined_are_told(file):
    inner = b"}" + text("b") + tensor() + b"s"
    refused(file(archive(holding(text("a.b"), tensor(), text("a"), inner))), "two arrays whose keys are 'a.b'")
    refused(file(archive(holding(text("0"), tensor(), number(0), tensor()))), "two arrays whose keys are '0'")


# Models


def torch_file(arrays):
    """A torch file of these arrays."""
    pairs, storages = [], {}
    for index, (key, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        kind = {"float32": "torch.FloatStorage", "float16": "torch.HalfStorage"}[array.dtype.name]
        held = storage(kind, str(index), array.size)
        pairs += [text(key), tensor(0, array.shape, strides, held)]
        storages[str(index)] = array.tobytes()
    return archive(holding(*pairs), storages)


@pytest.fixture
def model(tmp_path):
    """A copy of a packaged model's folder, its arrays, and a function that says whether it still loads as it was."""
    folder = shutil.copytree(pathlib.Path(zoo.__file__).parent / "weights" / "resnet_fsdd", tmp_path / "model")
    weights = dict(zoo.arrays(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()

    def same():
        one, other = (named_leaves(clip.model, clip.state) for clip in (zoo.load(folder), zoo.load("resnet_fsdd")))
        return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)

    return folder, weights, same


def test_a_folder_with_pytorch_model_bin_alone_loads(model):
    folder, weights, same = model
    (folder / "pytorch_model.bin").write_bytes(torch_file(weights))
    assert same()


@pytest.mark.parametrize("index, ending", [("model.safetensors", "safetensors"), ("pytorch_model.bin", "bin")])
def test_a_model_in_several_files_loads(model, index, ending):
    folder, weights, same = model
    places = {name: f"part-{number % 2}.{ending}" for number, name in enumerate(weights)}
    for file in set(places.values()):
        part = {name: array for name, array in weights.items() if places[name] == file}
        save_file(part, folder / file) if ending == "safetensors" else (folder / file).write_bytes(torch_file(part))
    (folder / f"{index}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert same()
    save_file(weights, folder / f"part-1.{ending}")
    refused(folder / f"part-1.{ending}", "and so does another file of the model", read=lambda _: zoo.load(folder))


def test_a_model_in_complex_numbers_is_told(model):
    folder, _, _ = model
    held = storage("torch.ComplexFloatStorage", count=3)
    (folder / "pytorch_model.bin").write_bytes(archive(holding(text("a"), tensor(shape=(3,), held=held))))
    refused(folder / "pytorch_model.bin", "holds arrays in C64: convert them", read=lambda _: zoo.load(folder))


# Harm


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
    pickled = pickle.dumps({"a": call}, protocol)
    for content in (archive(pickled), row(pickled), pickled):
        refused(file(content), " names ")
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


@pytest.mark.parametrize("pickled", INSTRUCTIONS.values(), ids=INSTRUCTIONS.keys())
def test_a_pickle_that_torch_does_not_write_is_refused(file, pickled):
    refused(file(archive(b"\x80\x02" + pickled)))
    refused(file(row(b"\x80\x02" + pickled)))
    refused(file(b"\x80\x02" + pickled))


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


@pytest.mark.parametrize("pickled, part", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_refused(file, pickled, part):
    refused(file(archive(pickled)), part)


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
    "a tensor of a text": tensor(held=text("0")),
    "a tensor of a tensor": tensor(held=tensor()),
    "a parameter of a text": name("torch._utils._rebuild_parameter") + b"(" + text("a") + b"\x89NtR",
    "a type that is none": tensor(rebuild="torch._utils._rebuild_tensor_v3", more=b"\x89NN"),
    "a storage beyond its entry": tensor(held=storage(count=7)),
    "a huge storage": tensor(held=storage(count=1 << 62)),
    "a storage below 0": tensor(held=storage(count=-1)),
    "a storage of wide numbers": tensor(held=storage("torch.DoubleStorage")),
    "a storage that is not there": tensor(held=storage(key="1")),
    "a storage elsewhere": tensor(held=storage(key="../data.pkl", count=1)),
    "a storage that is called otherwise": tensor(held=storage(mark="module")),
    "a storage of no type": tensor(held=storage("torch.WideStorage")),
    "a quantized storage": tensor(held=storage("torch.QInt8Storage")),
}


@pytest.mark.parametrize("value", SIZES.values(), ids=SIZES.keys())
def test_an_array_that_lies_is_refused(file, value):
    refused(file(archive(holding(text("a"), value))))


def test_an_array_of_numpy_that_lies_is_refused(file):
    def array(code, shape, data):
        kind = name("numpy.dtype") + b"(" + text(code) + b"\x89\x88tR(K\3" + text("<") + b"NNNtb"
        return (
            name("numpy.core.multiarray._reconstruct") + b"(NNNtR(K\1" + numbers(*shape) + kind + b"\x89" + data + b"tb"
        )

    eight = b"C\x08" + bytes(range(8))
    assert zoo.arrays(file(archive(holding(text("a"), array("u1", (2, 4), eight)))))["a"][1, 3] == 7
    for code, shape, data in (("f4", (3,), eight), ("f4", (1 << 60,), eight), ("f8", (-1,), eight), ("f4", (2,), b"N")):
        refused(file(archive(holding(text("a"), array(code, shape, data)))))
    refused(file(archive(holding(text("a"), array("f4", (255,) * 100_000, eight)))))
    for code in ("O8", "V8", "U2", "f4,f4", "g", "(1000000,)f4", "M8[s]"):  # which hold no numbers
        assert len(zoo.arrays(file(archive(holding(text("a"), array(code, (1,), eight)))))) == 0


def claiming(data=NUMBERS, own=None, listed=None, **more):
    """An entry with other numbers in its two headers, or in both."""
    both = {key: more.pop(key) for key in ("flags", "method", "packed", "size") if key in more}
    return {"data": data, "local": both | (own or {}), "central": both | (listed or {})} | more


PICKLED = holding(text("a"), tensor())
GOOD = {"a/data.pkl": PICKLED, "a/data/0": NUMBERS}
PLACE = 2 * (30 + len("a/data/00")) + len(PICKLED) + len(NUMBERS)  # of the list, or one byte before
ONES = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}
LIES = {  # of the entry a/data/0, and what is said of it
    "another name": (claiming(local_name=b"a/data/1"), "is not what the list says"),
    "another size": (claiming(own={"size": 8, "packed": 8}), "is not what the list says"),
    "another way of packing": (claiming(own={"method": 8}), "is not what the list says"),
    "other flags": (claiming(own={"flags": 8}), "is not what the list says"),
    "a size beyond the file": (claiming(size=1 << 30, packed=1 << 30), "overlap"),
    "a size beyond its bytes": (claiming(listed={"size": 48}), "packed in another way"),
    "a place beyond the file": (claiming(listed={"place": 1 << 30}), "makes no sense"),
    "a place in the list": (claiming(listed={"place": PLACE}), "is not what the list says"),
    "a place of another": (claiming(listed={"place": 0}), "is not what the list says"),
    "into the list": (claiming(size=25, packed=25), "overlap"),
    "encrypted": (claiming(flags=1), "is encrypted"),
    "encrypted well": (claiming(flags=0x41), "is encrypted"),
    "bzip2": (claiming(method=12), "packed in another way"),
    "64 bits missing": (claiming(listed=ONES), "is not what the list says"),
    "64 bits that lie": (
        claiming(listed=ONES, extra=struct.pack("<2H2Q", 1, 16, 1 << 62, 1 << 62)),
        "not what the list",
    ),
    "a place of 64 bits": (
        claiming(listed={"place": 0xFFFFFFFF}, extra=struct.pack("<2HQ", 1, 8, (1 << 64) - 1)),
        "makes no sense",
    ),
    "64 bits too few": (claiming(listed=ONES, extra=struct.pack("<2HQ", 1, 8, 24)), "makes no sense"),
    "64 bits too long": (claiming(listed=ONES, extra=struct.pack("<2H2Q", 1, 999, 24, 24)[:12]), "makes no sense"),
    "empty extra fields": (claiming(listed=ONES, extra=b"\0\0\0\0" * 99), "is not what the list says"),
    "no deflate": (claiming(b"\xff" * 24, method=8), "cannot be unpacked"),
    "a packed size too small": (claiming(deflate=True, size=23), "smaller than it should be"),
    "a packed size too large": (claiming(deflate=True, size=99), "another size than it claims"),
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
    "overlapping": ({"a/data.pkl": claiming(PICKLED, size=999, packed=999), "a/data/0": bytes(999)}, "overlap"),
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

    refused(file(pack(GOOD | {"a/data/0": entry})), part, read=read)


@pytest.mark.parametrize("entries, part", ARCHIVES.values(), ids=ARCHIVES.keys())
def test_an_archive_that_torch_does_not_write_is_refused(file, entries, part):
    refused(file(pack(entries)), part)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_an_end_of_an_archive_that_lies_is_refused(file, end):
    refused(file(pack(GOOD, end)))


def test_bytes_in_front_of_an_archive_or_behind_it_are_refused(file):
    refused(file(b"PK\3\4" + pack(GOOD)))
    refused(file(pack(GOOD) + b"\0"))


def test_an_old_file_that_lies_is_refused(file):
    held = storage(more=b"N")
    pickled = holding(text("a"), tensor(held=held))
    np.testing.assert_array_equal(zoo.arrays(file(row(pickled)))["a"], range(6))
    beyond = b"(" + text("1") + number(4) + number(3) + b"t"
    twice = holding(
        text("a"),
        tensor(held=held),
        text("b"),
        tensor(0, (3,), held=storage("torch.DoubleStorage", count=3, more=b"N")),
    )
    for content in (
        row(pickled, magic=7),
        row(pickled, little=False),
        row(pickled, keys=()),
        row(pickled, keys=("0", "0")),
        row(pickled, keys=("0", "1")),
        row(pickled, keys=([],)),
        row(pickled, storages=NUMBERS[:-4]),
        row(pickled)[:-4],
        row(holding(text("a"), tensor(held=storage(count=1 << 40, more=b"N")))),
        row(holding(text("a"), tensor(0, (3,), held=storage(more=beyond)))),
        row(twice),
    ):
        refused(file(content))


@pytest.mark.parametrize("name", ["zip", "row"])
def test_a_file_that_is_cut_short_is_refused(file, name):
    content = golden(name)
    for size in range(1, len(content), 97):
        refused(file(content[:size]))


@pytest.mark.parametrize("name", ["protocol2", "protocol4", "row", "lightning"])
def test_a_file_with_any_bytes_changed_is_read_or_refused(file, name):
    generator, content = np.random.default_rng(0), golden(name)
    for _ in range(150):
        changed = bytearray(content)
        for place in generator.integers(len(content), size=generator.integers(1, 5)):
            changed[place] = generator.integers(256)
        try:
            arrays = zoo.arrays(file(bytes(changed)))
        except ValueError as error:
            assert "\n" not in str(error) and str(error).endswith("."), error
        else:
            assert all(isinstance(arrays[key], np.ndarray) for key in arrays)
