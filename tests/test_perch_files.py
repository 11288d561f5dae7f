"""Perch's released files: their names and shapes, TensorFlow's checkpoint, and files that are not whole."""

import numpy as np
import pytest
from golden.perch import CHECKPOINT, flat
from golden.seeded import uniform
from perch_tree import golden, tree

import zoo
from zoo import families
from zoo._bundle import bundle_file
from zoo._create import skeleton
from zoo._foreign import WeightFile
from zoo._labels import read_labels
from zoo._leaves import named_leaves
from zoo._load import fit
from zoo.families import perch

# The released files ---------------------------------------------------------------------------------------------------


def released_shapes():
    """The SavedModel's arrays by their keys, from the shapes that the entry asks for and the names' order."""
    leaves = {name: leaf.shape for name, leaf in named_leaves(*skeleton(perch.ENTRIES[0])).items()}
    linear = (".expand.weight", ".reduce.weight", ".project.weight", ".end.weight")
    places = [(stage, block) for stage, depth in enumerate(perch.DEPTHS) for block in range(depth)]
    ours = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    shapes = {}
    for index, path in enumerate(perch._released()):
        *parts, leaf = path.split("/")
        if parts == ["head"]:
            name = {"prototypes": "head.weight", "protop_kernel": "head.scale", "bias": "head.bias"}[leaf]
        else:
            layer = parts[-1].removesuffix("Conv").removesuffix("BatchNorm").lower()
            norm = "_norm" if "BatchNorm" in parts[-1] else ""
            if parts[0].startswith("MBConv"):
                stage, block = places[int(parts[0].removeprefix("MBConv_"))]
                excite = "excite." if len(parts) == 3 else ""
                name = f"network.stages.{stage}.{block}.{excite}{layer}{norm}.{ours.get(leaf, leaf)}"
            else:
                name = f"network.{ {'Stem_0': 'stem', 'Head_0': 'end'}[parts[0]] }{norm}.{ours.get(leaf, leaf)}"
                name = name.replace("_0", "")
        shape = leaves.pop(name)
        if name.endswith(linear):
            shape = shape[::-1] if "excite" in name else (1, 1, *shape[::-1])
        if name == "head.weight":
            shape = (shape[0], shape[2], shape[1])
        shapes[f"_tf_var_leaves/{index}/.ATTRIBUTES/VARIABLE_VALUE"] = shape
    assert not leaves
    return shapes


def test_the_released_names_are_in_the_savedmodels_order():
    names = perch._released()
    assert len(names) == 497
    for index, name in {  # of github.com/Benedict-Carling/perch2-int8, research/src/perch2_leaf_mapping.json
        0: "Head_0/BatchNorm_0/mean",
        10: "MBConv_10/DepthwiseBatchNorm/mean",
        155: "Stem_0/BatchNorm_0/var",
        158: "Head_0/Conv_0/kernel",
        168: "MBConv_0/SqueezeAndExcitation_0/Reduce/kernel",
        184: "MBConv_10/ExpandConv/kernel",
        302: "MBConv_19/ProjectBatchNorm/bias",
        493: "Stem_0/Conv_0/kernel",
        496: "head/prototypes",
    }.items():
        assert names[index] == name


def test_the_released_file_is_recognised_and_fits(tmp_path):
    shapes = released_shapes()
    source = WeightFile(tmp_path / "variables" / "variables.index", "tensorflow", {}, shapes)
    recognised = perch.recognise(source)
    assert recognised.entry == perch.ENTRIES[0]
    for names in (recognised.names, perch.NAMES["perch"](shapes | {"save_counter/.ATTRIBUTES/VARIABLE_VALUE": ()})):
        fit(recognised.entry, {name: shapes[key] for name, key in names.items()}, "file", recognised.rules)
    (tmp_path / "assets").mkdir()
    labels = ["inat2024_fsd50k", *(f"species {index}" for index in range(14795))]
    (tmp_path / "assets" / "labels.csv").write_text("\n".join(labels) + "\n")
    assert perch.recognise(source).entry.labels == tuple(labels[1:])


def test_labels_may_stand_one_a_row(tmp_path):
    (tmp_path / "labels.csv").write_text('inat2024_fsd50k\nRana temporaria\n"Bell, large"\n')
    assert read_labels(tmp_path / "labels.csv") == ("Rana temporaria", "Bell, large")
    (tmp_path / "labels.csv").write_text("inat2024_fsd50k\n")
    with pytest.raises(ValueError, match="is not a table"):
        read_labels(tmp_path / "labels.csv")


def checkpoint(folder, index=None, data=None):
    for part, suffix, content in (("index", ".index", index), ("data", ".data-00000-of-00001", data)):
        content = golden()[f"checkpoint/{part}"].tobytes() if content is None else content
        (folder / f"variables{suffix}").write_bytes(content)
    return folder / "variables.index"


def test_tensorflows_checkpoint_is_read_without_it(tmp_path):
    arrays = zoo.arrays(checkpoint(tmp_path))
    assert set(arrays) == {f"_tf_var_leaves/{index}/.ATTRIBUTES/VARIABLE_VALUE" for index in range(len(CHECKPOINT))}
    for index, shape in enumerate(CHECKPOINT):
        array = arrays[f"_tf_var_leaves/{index}/.ATTRIBUTES/VARIABLE_VALUE"]
        np.testing.assert_array_equal(array, uniform(str(index), shape).astype(np.float32))


def test_a_checkpoint_that_is_not_whole_is_told(tmp_path):
    content = golden()["checkpoint/index"].tobytes()
    for size in range(0, len(content), 7):
        with pytest.raises(ValueError, match="is not the whole table of a TensorFlow checkpoint"):
            bundle_file(checkpoint(tmp_path, index=content[:size]))
    with pytest.raises(ValueError, match="lie behind the end of the file"):
        bundle_file(checkpoint(tmp_path, data=b"\0" * 10))
    path = checkpoint(tmp_path)
    path.with_name("variables.data-00000-of-00001").unlink()
    with pytest.raises(FileNotFoundError, match=r"lie in variables\.data-00000-of-00001 beside it"):
        bundle_file(path)


def test_a_table_with_wrong_bytes_never_fails_otherwise(tmp_path):
    content = golden()["checkpoint/index"].tobytes()
    size = len(golden()["checkpoint/data"])
    for place in range(len(content)):
        broken = bytearray(content)
        broken[place] ^= 0x55
        try:
            leaves = bundle_file(checkpoint(tmp_path, index=bytes(broken)))
        except ValueError as error:
            assert "variables.index" in str(error) and len(str(error)) < 500
        except FileNotFoundError as error:
            assert "beside it" in str(error)
        else:
            assert all(4 * np.prod(leaf.shape, dtype=int) <= 8 * size for leaf in leaves.values())


def test_a_flax_train_state_of_perch_is_not_taken_for_another(tmp_path):
    shapes = {key.split("/", 1)[1]: array.shape for key, array in tree("released", "dense").items()}
    source = WeightFile(tmp_path, "flax", {}, shapes)
    (recognised,) = filter(None, (family.recognise(source) for family in families.having("recognise")))
    assert recognised.entry.network["first_residual"] is False and flat({"a": {"b": 1}}) == {"a/b": 1}
