"""Torch files read without torch: those that torch wrote, bit for bit, older ones, and models in them."""

import json
import pathlib
import pickle
import shutil
import struct

import ml_dtypes
import numpy as np
import pytest
import torch_files
from safetensors.numpy import save_file
from torch_files import (
    GOLDEN,
    NUMBERS,
    archive,
    expect_refusal,
    global_name,
    golden,
    holding,
    number,
    pack,
    row,
    storage,
    tensor,
    text,
    torch_file,
)

import zoo
from zoo._leaves import named_leaves

file = torch_files.file


READ = ("zip", "row", "protocol2", "protocol3", "protocol4", "protocol5", "alone", "list", "empty", "lightning")


@pytest.mark.parametrize("name", READ)
def test_what_torch_wrote_is_read_bit_for_bit(file, name):
    arrays = zoo.arrays(file(golden(name)))
    expected = {key.split("/", 2)[2]: GOLDEN[key] for key in GOLDEN.files if key.startswith(f"array/{name}/")}
    assert list(arrays) == list(expected) and len(arrays) == len(expected)
    for key, array in expected.items():
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
    mixed = b"](" + text("x") + b"N" + tensor() + global_name("torch.device") + text("cpu") + b"\x85R" + b"}e"
    content = holding(text("cfg"), inner, text("list"), mixed, text("a"), tensor(), number(7), text("/m/7"))
    expected = {"cfg": {"depth": 12, "rate": 0.125, "on": True}, "list": ["x", None, None, None, {}], 7: "/m/7"}
    for path in (file(archive(content)), file(row(content.replace(storage(), storage(more=b"N"))), "row.pt")):
        arrays = zoo.arrays(path)
        assert arrays.settings == expected and list(arrays) == ["list.2", "a"]
        arrays.settings["cfg"].clear()
        assert arrays.settings == expected
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
    expect_refusal(path, "holds arrays in F8_E4M3", read=lambda path: zoo.arrays(path)["a"])


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
    expect_refusal(file(golden(name)), part)


def test_paths_that_are_no_file_of_weights_are_told(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt does not exist: name a"):
        zoo.arrays(tmp_path / "nowhere.pt")
    expect_refusal(tmp_path, "is a folder")
    expect_refusal(file(b""), "is neither a safetensors file nor one that torch wrote")
    expect_refusal(file(b"RIFF    WAVEfmt "), "is neither")
    expect_refusal(file(b"model".ljust(257, b"\0") + b"ustar\0" + bytes(400)), "is a tar archive, as torch 0.1 wrote")
    expect_refusal(file(pickle.dumps({"a": 1})), "is a pickle that torch did not write")
    expect_refusal(file(pack({"a.txt": b"text"})), "is a zip archive that torch did not write")


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
    content = pack({name: {"data": data, "deflate": True} for name, data in entries.items()})
    np.testing.assert_array_equal(zoo.arrays(file(content))["a"], range(6))


def test_parts_of_a_storage_in_an_old_file(file):
    part = b"(" + text("1") + number(2) + number(3) + b"t"
    path = file(
        row(holding(text("a"), tensor(1, (2,), (1,), storage(more=part)), text("b"), tensor(source=storage(more=b"N"))))
    )
    np.testing.assert_array_equal(zoo.arrays(path)["a"], [3, 4])
    np.testing.assert_array_equal(zoo.arrays(path)["b"], range(6))


def test_old_names_and_python_2(file):
    old = tensor(rebuild="torch._utils._rebuild_tensor", more=b"", source=storage("torch.cuda.FloatStorage", more=b"N"))
    pairs = (
        global_name("collections.OrderedDict") + b"(](](U\x01a" + old + b"eetR"
    )  # its pairs as lists, its texts as bytes
    np.testing.assert_array_equal(zoo.arrays(file(row(b"\x80\x02" + pairs + b".")))["a"], range(6))


def test_floats_of_8_bits(file):
    source = storage("torch.storage.UntypedStorage", count=24)
    more = b"\x89N" + global_name("torch.float8_e4m3fn")
    eight = zoo.arrays(
        file(archive(holding(text("a"), tensor(4, (4,), (1,), source, "torch._utils._rebuild_tensor_v3", more))))
    )
    assert eight["a"].dtype == ml_dtypes.float8_e4m3fn and eight["a"].tobytes() == NUMBERS[4:8]


def test_keys_that_are_equal_once_joined_are_told(file):
    inner = b"}" + text("b") + tensor() + b"s"
    expect_refusal(file(archive(holding(text("a.b"), tensor(), text("a"), inner))), "two arrays whose keys are 'a.b'")
    expect_refusal(file(archive(holding(text("0"), tensor(), number(0), tensor()))), "two arrays whose keys are '0'")


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
    expect_refusal(folder / f"part-1.{ending}", "and so does another file of", read=lambda _: zoo.load(folder))


def test_a_model_in_complex_numbers_is_told(model):
    folder, _, _ = model
    source = storage("torch.ComplexFloatStorage", count=3)
    (folder / "pytorch_model.bin").write_bytes(archive(holding(text("a"), tensor(shape=(3,), source=source))))
    expect_refusal(folder / "pytorch_model.bin", "holds arrays in C64: convert them", read=lambda _: zoo.load(folder))
