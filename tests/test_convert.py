"""Rename tables: strict in both directions, on made-up keys and on the keys of the published checkpoints."""

import json
import pathlib
import re

import numpy as np
import pytest
import test_beats
import test_dasheng

from zoo import families
from zoo._create import skeleton
from zoo._leaves import check, named_leaves
from zoo._rules import Rule, dense, drop, flat, hwio, mono, only, rename, same, time_first, transposed, under
from zoo.families.ced import steps

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "checkpoints.json").read_text())
SPEECH = ("speech", "whisper", "clap", "perch")  # of which test_speech.py, test_clap.py and test_perch.py know the keys
ENTRIES = tuple(entry for entry in families.entries().values() if entry.checkpoint.table not in SPEECH)
TABLES = {entry.checkpoint.table: families.rules(entry.checkpoint.table) for entry in ENTRIES}
OTHERS = tuple(  # repos that describe themselves
    families.describe(
        name, {"architecture": name.removeprefix("timm/").split(".")[0], "num_classes": 1000}, lambda file: {}
    )
    for name in sorted(GOLDEN.keys() - {entry.name for entry in ENTRIES})
)
RULES = (
    Rule(r"conv(\d)\.weight", r"stages.\1.kernel", hwio),
    Rule(r"conv(\d)\.bias", r"stages.\1.bias"),
    Rule(r"tracked", drop),
)

entries = pytest.mark.parametrize("entry", (*ENTRIES, *OTHERS), ids=lambda entry: entry.name)


def source_shapes(entry):
    """The shape of each array of the published file; those of ../shared skip where it is absent."""
    if entry.checkpoint.table == "beats":
        return test_beats.published_shapes(entry.classes)
    if entry.checkpoint.table == "dasheng":
        return test_dasheng.published_shapes()
    if entry.name in GOLDEN:
        return {key: tuple(shape) for key, shape in GOLDEN[entry.name].items()}
    oracles = pathlib.Path(__file__).parents[2] / "shared" / "oracles"
    if not oracles.is_dir():
        pytest.skip("the folder ../shared with oracles is not here")
    ced = entry.checkpoint.table == "ced"
    folder = entry.name.removesuffix("_audioset") if entry.name.startswith("panns_") else entry.name
    keys = json.loads((oracles / ("ced" if ced else folder) / "keys.json").read_text())
    shapes = {key: tuple(shape) for key, shape in (keys["keys"] | keys.get("frontend_keys", {})).items()}
    if ced:  # of the tiny one, from which the others differ in their width alone
        width = {"tiny": 192, "mini": 256, "small": 384, "base": 768}[entry.name.split("_")[1]]
        shapes = {
            key: tuple(size // 192 * width if size % 192 == 0 else size for size in shape)
            for key, shape in shapes.items()
        }
    return shapes


def test_rename_gives_each_name_its_key_and_rule():
    found, faults = rename(["conv0.weight", "conv1.weight", "conv1.bias", "tracked"], RULES)
    assert faults == []
    assert found == {
        "stages.0.kernel": ("conv0.weight", RULES[0]),
        "stages.1.kernel": ("conv1.weight", RULES[0]),
        "stages.1.bias": ("conv1.bias", RULES[1]),
    }


@pytest.mark.parametrize("key", ["conv10.weight", "module.conv1.weight", "conv1.weight.0", "conv1xweight"])
def test_a_pattern_matches_whole_keys_only(key):
    assert rename(["conv0.weight", key], RULES)[1] == [f"{key} matches 0 rules, so no array of the model is made of it"]


def test_a_key_that_two_rules_match_is_a_fault():
    assert rename(["conv1.bias"], (*RULES, Rule(r"conv1\..*", drop)))[1] == ["conv1.bias matches 2 rules"]


def test_rename_lists_every_fault_at_once():
    rules = (*RULES, Rule(r"conv7\..*", drop), Rule(r"old_conv(\d)\.bias", r"stages.\1.bias"))
    keys = ["conv0.bias", "old_conv0.bias", "conv7.bias", "head.weight", "head.bias"]
    assert rename(keys, rules)[1] == [
        "old_conv0.bias and conv0.bias both fill stages.0.bias",
        "conv7.bias matches 2 rules",
        "head.weight matches 0 rules, so no array of the model is made of it",
        "head.bias matches 0 rules, so no array of the model is made of it",
    ]


def test_a_shape_that_a_move_cannot_take_stays_as_it_is():
    assert Rule("a", "b", hwio).moved((8, 4, 3, 3)) == (3, 3, 4, 8)
    assert Rule("a", "b", hwio).moved((8, 4)) == (8, 4)


def test_check_lists_every_fault_at_once():
    wanted = {"a": (2,), "b": (3, 4), "c": (), "d": (1,)}
    found = {"a": (2,), "b": (4, 3), "e": (5,), "d": (1,), "f": ()}
    with pytest.raises(ValueError) as raised:
        check(found, wanted, "some/model.safetensors")
    message = str(raised.value)
    for part in (
        "some/model.safetensors",
        "c is missing",
        "e is surplus",
        "f is surplus",
        "b is (4, 3) instead of (3, 4)",
    ):
        assert part in message
    assert "a is" not in message and "d is" not in message


def test_check_takes_what_fits_in_any_order():
    check({"b": (3, 4), "a": (2,)}, {"a": (2,), "b": (3, 4)}, "file")


def test_hwio_moves_each_axis():
    kernel = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    moved = hwio(kernel)
    assert moved.shape == (5, 7, 3, 2)
    for index in [(0, 0, 0, 0), (1, 2, 4, 6), (1, 0, 3, 2), (0, 2, 1, 5)]:
        outputs, inputs, height, width = index
        assert moved[height, width, inputs, outputs] == kernel[index]


def test_same_is_the_array():
    array = np.arange(3)
    assert same(array) is array


def test_no_two_families_share_a_name():
    for part, names in (("ENTRIES", lambda entries: [each.name for each in entries]), ("RULES", list)):
        found = [name for family in families.having(part) for name in names(getattr(family, part))]
        assert len(found) == len(set(found))


def test_every_table_has_a_published_model_or_reads_files_alone():
    tables = {table for family in families.having("RULES") for table in family.RULES}
    files = {table for table in tables if table.endswith("_authors")}  # tests/test_families_convert.py
    speech = {table for table in tables if table.startswith(SPEECH)}
    assert tables == set(TABLES) | files | speech | {"audax"}  # tests/test_audax_layouts.py


@pytest.mark.parametrize("table", TABLES)
def test_every_rule_is_used_by_a_published_file(table):
    keys = [key for entry in (*ENTRIES, *OTHERS) if entry.checkpoint.table == table for key in source_shapes(entry)]
    for rule in TABLES[table]:
        assert any(re.fullmatch(rule.pattern, key) for key in keys), rule.pattern


@entries
def test_the_table_fills_every_leaf_once(entry):
    shapes = source_shapes(entry)
    leaves = named_leaves(*skeleton(entry))
    found, faults = rename(shapes, TABLES[entry.checkpoint.table])
    assert faults == []
    moved = {name: rule.moved(shapes[key]) for name, (key, rule) in found.items()}
    assert moved == {name: leaf.shape for name, leaf in leaves.items()}


@entries
def test_no_key_is_dropped_but_the_frontend_and_counters(entry):
    shapes = source_shapes(entry)
    found, _ = rename(shapes, TABLES[entry.checkpoint.table])
    dropped = set(shapes) - {key for key, _ in found.values()}
    frontend = ("spectrogram_extractor.", "logmel_extractor.")
    copies = re.compile(r"model\.encoder\.layers\.[1-9]\d*\.self_attn\.relative_attention_bias\.weight")
    assert dropped == {
        key
        for key in shapes
        if key.endswith("num_batches_tracked")
        or key.removeprefix("backbone.").startswith(frontend)
        or copies.fullmatch(key)
    }


# What moves arrays


def test_dense_takes_linear_maps_1x1_convolutions_and_larger_ones():
    kernel = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(dense(kernel), kernel)
    np.testing.assert_array_equal(dense(kernel[:, :, None, None]), kernel)
    larger = np.arange(2 * 3 * 1 * 5).reshape(2, 3, 1, 5)
    assert dense(larger).shape == (1, 5, 3, 2)
    assert dense(larger)[0, 4, 1, 0] == larger[0, 1, 0, 4]


def test_mono_is_the_convolution_of_one_channel_repeated():
    generator = np.random.default_rng(0)
    kernel, patch = generator.standard_normal((4, 3, 5, 2)), generator.standard_normal((5, 2))
    theirs = np.einsum("oihw,ihw->o", kernel, np.stack([patch] * 3))
    assert mono(kernel).shape == (5, 2, 1, 4)
    np.testing.assert_allclose(np.einsum("hwio,hw->o", mono(kernel), patch), theirs, rtol=1e-12)


def test_flat_and_only_lose_axes_and_keep_the_order():
    array = np.arange(6).reshape(1, 2, 3)
    np.testing.assert_array_equal(flat(array), np.arange(6))
    np.testing.assert_array_equal(only(array), np.arange(6).reshape(2, 3))
    assert Rule("a", "b", only).moved((2, 3, 4)) == (2, 3, 4)


def test_steps_have_the_channels_last():
    values = np.arange(15)
    np.testing.assert_array_equal(steps(values.reshape(1, 5, 1, 3)), values.reshape(5, 3).T)
    np.testing.assert_array_equal(steps(values.reshape(1, 5, 3, 1)), values.reshape(5, 3).T)


def test_time_first_moves_each_axis():
    kernel = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    assert time_first(kernel).shape == (7, 5, 3, 2)
    assert time_first(kernel)[6, 1, 2, 0] == kernel[0, 2, 1, 6]


def test_transposed_turns_flax_dense_kernels_over_and_leaves_larger_ones():
    kernel = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(transposed(kernel), kernel.T)
    np.testing.assert_array_equal(transposed(kernel[None, None]), kernel.T)
    larger = np.arange(3 * 1 * 2 * 5).reshape(3, 1, 2, 5)
    assert transposed(larger) is larger


def test_under_puts_paths_in_front_and_counts_their_groups_first():
    (rule, plain) = under(r"a\.(\d)\.(x|y)\.", r"b.\1.\2.", Rule(r"c(\d)\.(w|v)", r"d.\2.\1", hwio), Rule("e", "f"))
    assert rename(["a.3.y.c7.w", "a.4.x.e"], (rule, plain)) == (
        {"b.3.y.d.w.7": ("a.3.y.c7.w", rule), "b.4.x.f": ("a.4.x.e", plain)},
        [],
    )
    assert rule.move is hwio and plain.move is same


def test_under_nests():
    rules = under(r"a(\d)/", r"x.\1.", *under(r"b(\d)/", r"y.\1.", Rule(r"c(\d)", r"z.\1")))
    assert rename(["a1/b2/c3"], rules)[0].keys() == {"x.1.y.2.z.3"}
    faults = rename(["b2/c3", "a1/c3"], rules)[1]
    assert [fault.partition(",")[0] for fault in faults] == ["b2/c3 matches 0 rules", "a1/c3 matches 0 rules"]
