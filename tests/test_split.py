"""Clips held out by a share: whole recordings, all labels alike, the same ones whatever else changes."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from train import evaluation, folder, loop
from train.recipe import Data, Model, Optimizer, Recipe, Run
from train.split import file_places, folds, held_out


class Clips:
    """What a split knows of a dataset."""

    folder = pathlib.Path("data")

    def __init__(self, ids, labels):
        self.ids = list(ids)
        self.labels = tuple(sorted({label for each in labels for label in each}))
        self.targets = np.array([[float(label in each) for label in self.labels] for each in labels], np.float32)

    def __len__(self):
        return len(self.ids)


def many(count=300):
    """So many recordings of three labels, in the proportion 6 : 3 : 1, with one to three parts each."""
    labels = ["a"] * (6 * count // 10) + ["b"] * (3 * count // 10) + ["c"] * (count // 10)
    pairs = [(f"{number}.wav", label) for number, label in enumerate(labels) for _ in range(1 + number % 3)]
    return Clips(*zip(*pairs, strict=True))


def share(dataset, value):
    return held_out(dataset, Data(1.0, hold_out_share=value))


@pytest.mark.parametrize("value", [0.1, 0.25, 0.5, 0.9])
def test_a_share_is_of_all_labels_alike_and_of_whole_recordings(value):
    clips = many()
    chosen = share(clips, value)
    sides = [{name for name, held in zip(clips.ids, chosen, strict=True) if held == side} for side in (True, False)]
    assert not sides[0] & sides[1] and len(sides[0]) == pytest.approx(300 * value, abs=1)
    for place, count in enumerate((180, 90, 30)):
        names = {name for name, target in zip(clips.ids, clips.targets, strict=True) if target[place]}
        assert len(names & sides[0]) == pytest.approx(count * value, abs=1)


def test_a_share_depends_on_names_alone():
    clips = many(60)
    chosen = share(clips, 0.2)
    order = np.random.default_rng(0).permutation(len(clips))
    other = Clips([clips.ids[row] for row in order], [clips.labels[clips.targets[row].argmax()] for row in order])
    np.testing.assert_array_equal(share(other, 0.2), chosen[order])
    renamed = Clips([f"x{name}" for name in clips.ids], [clips.labels[row.argmax()] for row in clips.targets])
    assert not np.array_equal(share(renamed, 0.2), chosen)


def test_rare_labels_and_clips_without_any_are_spread_too():
    clips = Clips([f"{number}" for number in range(40)], ["", *["ab"] * 19, *[""] * 20])
    clips.targets[20:30, 0] = 1
    groups = [clips.targets.any(axis=1), ~clips.targets.any(axis=1)]
    assert [int(np.sum(share(clips, 0.5) & group)) for group in groups] in ([15, 5], [14, 6], [15, 6])


def test_folds_are_parts_of_equal_size_with_all_labels():
    clips = many()
    numbers = folds(clips, 5)
    assert sorted(set(numbers.tolist())) == [0, 1, 2, 3, 4]
    assert len({(name, number) for name, number in zip(clips.ids, numbers.tolist(), strict=True)}) == 300
    for place, count in enumerate((180, 90, 30)):
        sizes = [
            len({clips.ids[row] for row in np.flatnonzero(clips.targets[:, place] * (numbers == n))}) for n in range(5)
        ]
        assert sizes == [count // 5] * 5
    for wrong in (1, 301):
        with pytest.raises(ValueError, match=f"has 300 recordings, which allow 2 to 300 folds, got {wrong}"):
            folds(clips, wrong)


def test_a_share_of_nothing_or_of_all_is_refused():
    clips = many(10)
    assert file_places(clips).max() == 9
    for value, count in ((0.01, 0), (0.97, 10)):
        with pytest.raises(
            ValueError, match=f"a share of {value} of the 10 recordings of data holds out {count} of them"
        ):
            share(clips, value)
    with pytest.raises(ValueError, match=r"is a share from 0 to below 1, got 1\.5"):
        Data(1.0, hold_out_share=1.5)


def test_a_share_stands_for_the_column_of_a_recipe():
    chosen = Data(1.0, hold_out="split", held_out=("test",), hold_out_share=0.1)
    assert (chosen.hold_out, chosen.held_out, chosen.holds_out) == (None, (), True)
    assert chosen.clips_held_out == "of 0.1 of the recordings, drawn by their names"
    assert not Data(1.0).holds_out
    recipe = Recipe("x", Model(start="cola_small"), chosen, Optimizer(1e-3))
    rows, held = loop.select(recipe, many())
    assert len(rows) + len(held) == len(many()) and not set(rows) & set(held)


def test_a_run_of_before_there_was_a_share_goes_on():
    recipe = Recipe("x", Model(start="cola_small"), Data(1.0), Optimizer(1e-3), run=Run(steps=3))
    now = json.loads(recipe.to_json())
    before = json.loads(recipe.to_json())
    del before["data"]["hold_out_share"], before["run"]["patience"], before["objective"]["class_weights"]
    assert list(folder._differences(before, now)) == []
    other = json.loads(dataclasses.replace(recipe, data=Data(1.0, hold_out_share=0.2)).to_json())
    assert list(folder._differences(before, other)) == ["data.hold_out_share (None then, 0.2 now)"]
    assert evaluation.held_out is held_out
