"""Rename tables: strict in both directions, on made-up keys and on the keys of the published checkpoints."""

import json
import re

import numpy as np
import pytest

from zoo._convert import Rule, drop, hwio, rename, same
from zoo._entries import ENTRIES
from zoo._entry import skeleton
from zoo._tables import TABLES
from zoo._weights import check, named_leaves

RULES = (
    Rule(r"conv(\d)\.weight", r"stages.\1.kernel", hwio),
    Rule(r"conv(\d)\.bias", r"stages.\1.bias"),
    Rule(r"tracked", drop),
)

entries = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def source_shapes(shared, entry):
    """The shape of each array of the published file."""
    keys = json.loads((shared / "oracles" / entry.name / "keys.json").read_text())
    return {key: tuple(shape) for key, shape in (keys["keys"] | keys.get("frontend_keys", {})).items()}


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
    assert rename(["conv0.weight", key], RULES)[1] == [f"{key} matches 0 rules"]


def test_a_key_that_two_rules_match_is_a_fault():
    assert rename(["conv1.bias"], (*RULES, Rule(r"conv1\..*", drop)))[1] == ["conv1.bias matches 2 rules"]


def test_rename_lists_every_fault_at_once():
    rules = (*RULES, Rule(r"conv7\..*", drop), Rule(r"old_conv(\d)\.bias", r"stages.\1.bias"))
    keys = ["conv0.bias", "old_conv0.bias", "conv7.bias", "head.weight", "head.bias"]
    assert rename(keys, rules)[1] == [
        "old_conv0.bias and conv0.bias both fill stages.0.bias",
        "conv7.bias matches 2 rules",
        "head.weight matches 0 rules",
        "head.bias matches 0 rules",
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


def test_every_published_model_has_a_table_and_every_table_a_model():
    assert {entry.checkpoint.table for entry in ENTRIES} == set(TABLES)


@entries
def test_every_rule_is_used_by_the_published_file(shared, entry):
    keys = source_shapes(shared, entry)
    for rule in TABLES[entry.checkpoint.table]:
        assert any(re.fullmatch(rule.pattern, key) for key in keys), rule.pattern


@entries
def test_the_table_fills_every_leaf_once(shared, entry):
    shapes = source_shapes(shared, entry)
    leaves = named_leaves(*skeleton(entry))
    found, faults = rename(shapes, TABLES[entry.checkpoint.table])
    assert faults == []
    moved = {name: rule.moved(shapes[key]) for name, (key, rule) in found.items()}
    assert moved == {name: leaf.shape for name, leaf in leaves.items()}


@entries
def test_no_key_is_dropped_but_the_frontend_and_counters(shared, entry):
    keys = json.loads((shared / "oracles" / entry.name / "keys.json").read_text())
    found, _ = rename(source_shapes(shared, entry), TABLES[entry.checkpoint.table])
    dropped = set(source_shapes(shared, entry)) - {key for key, _ in found.values()}
    counters = {key for key in keys["keys"] if key.endswith("num_batches_tracked")}
    assert dropped == set(keys.get("frontend_keys", {})) | counters
