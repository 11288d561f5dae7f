"""`zoo.detect`: events from scores over time, by closed forms, and in real sound."""

import csv

import numpy as np
import pytest

import zoo
from zoo import _events
from zoo._events import timeline

LABELS = zoo.info("resnet_esc10").labels


def result(values, starts, ends, source="x"):
    values = np.asarray(values, np.float32)
    return zoo.Result(source, np.asarray(starts, float), np.asarray(ends, float), values, float(max(ends)))


@pytest.fixture
def detect(monkeypatch):
    """`zoo.detect` of one recording whose scores of "rain" are given, one a second."""
    clip = zoo.load("resnet_esc10")

    def run(scores, **options):
        values = np.zeros((len(scores), len(LABELS)), np.float32)
        values[:, LABELS.index("rain")] = scores
        found = result(values, range(len(scores)), range(1, len(scores) + 1))
        monkeypatch.setattr(_events, "tag", lambda *_, **__: iter([found]))
        return [(event.start, event.end, round(event.score, 3)) for event in zoo.detect(clip, ["x"], **options)]

    return run


def test_rows_that_overlap_are_averaged():
    edges, values = timeline(result([[0], [1], [1], [0]], [0, 0.5, 1, 1.5], [1, 1.5, 2, 2.2]))
    np.testing.assert_allclose(edges, [0, 0.5, 1, 1.5, 2, 2.2])
    np.testing.assert_allclose(values[:, 0], [0, 0.5, 1, 0.5, 0])


def test_rounding_makes_no_gap_between_rows():
    end = 0.1 + 0.2
    edges, scores = timeline(result([[1.0], [3.0]], [0.0, 0.3], [end, 0.6]))  # 0.30000000000000004 and 0.3
    assert end != 0.3 and len(edges) == 3
    np.testing.assert_array_equal(scores, [[1.0], [3.0]])


def test_an_event_begins_at_the_threshold_and_ends_below_the_release(detect):
    scores = [0.1, 0.4, 0.8, 0.9, 0.4, 0.2, 0.5, 0.1]
    assert detect(scores) == [(2, 4, 0.9), (6, 7, 0.5)]
    assert detect(scores, release=0.3) == [(2, 5, 0.9), (6, 7, 0.5)]
    assert detect(scores, threshold=0.6, release=0.3) == [(2, 5, 0.9)]
    assert detect(scores, threshold={"rain": 0.85}) == [(3, 4, 0.9)]
    assert detect(scores, threshold=0.95) == []


def test_gaps_are_closed_before_short_events_are_dropped(detect):
    scores = [0.9, 0, 0.8, 0, 0, 0.7, 0]
    assert detect(scores) == [(0, 1, 0.9), (2, 3, 0.8), (5, 6, 0.7)]
    assert detect(scores, max_gap=1.0) == [(0, 3, 0.9), (5, 6, 0.7)]
    assert detect(scores, max_gap=1.0, min_duration=2.0) == [(0, 3, 0.9)]
    assert detect(scores, min_duration=2.0) == []


def test_smoothing_is_the_mean_around_each_step(detect):
    scores = [0, 0, 0.9, 0, 0.3]
    assert detect(scores, smooth=3.0, threshold=0.29) == [(1, 4, 0.4)]  # the ends have half a window less
    assert detect(scores, smooth=3.0, threshold=0.41) == []


def test_rain_and_then_a_clock():
    """The packaged sound changes after ten seconds, and so do the events, to within one hop."""
    clip = zoo.load("resnet_esc10")
    events = list(zoo.detect(clip, [zoo.example()], labels=["rain", "clock_tick"], window=2.0, hop=0.5, max_gap=2.0))
    longest = {
        label: max((e for e in events if e.label == label), key=lambda e: e.end - e.start)
        for label in ("rain", "clock_tick")
    }
    assert longest["rain"].start <= 0.5 and abs(longest["rain"].end - 10) <= 0.5
    assert abs(longest["clock_tick"].start - 10) <= 0.5 and longest["clock_tick"].end == 20
    assert events == sorted(events, key=lambda event: event.start) and all(event.end <= 20 for event in events)


@pytest.mark.parametrize("seed", [0, 1])
def test_loud_sounds_are_found_where_they_begin(shared, seed):
    """Clips of ESC-10 in faint noise, each of which the model knows by its first second: within one hop."""
    rng, clip, folder = np.random.default_rng(seed), zoo.load("resnet_esc10"), shared / "data" / "esc10"
    with open(folder / "manifest.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["labels"] not in ("helicopter", "sea_waves")]  # they fade in
    mix, onsets = rng.normal(0, 1e-4, 90 * 16000).astype(np.float32), []
    for row in rng.permutation(rows):
        wave = zoo.read(folder / row["files"], 16000)
        wave = wave[np.argmax(np.abs(wave) > 0.1 * np.abs(wave).max()) :]  # from where it is loud
        (tags,) = zoo.tag(clip, [(wave[:16000], 16000)], window=1.0)
        if tags.values[0, clip.labels.index(row["labels"])] > 0.6:
            onsets.append((row["labels"], 3.0 + 11.5 * len(onsets)))
            start = round(onsets[-1][1] * 16000)
            mix[start : start + len(wave)] += 0.7 * wave / np.abs(wave).max()
            if len(onsets) == 7:
                break
    events = list(zoo.detect(clip, [(mix, 16000)], release=0.3, max_gap=2.0, window=1.0, hop=0.5))
    for label, onset in onsets:
        starts = [event.start for event in events if event.label == label]
        assert starts and min(abs(start - onset) for start in starts) <= 0.5, (label, onset, starts)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"labels": ["reign"]}, "resnet_esc10 has no label 'reign': did you mean 'rain'"),
        ({"threshold": {"cat": 0.5}}, "has no label 'cat'"),
        ({"threshold": 2.0}, "threshold=2.0 is no score: scores lie between 0 and 1"),
        ({"threshold": 0.3, "release": 0.4}, "release 0.4 is above threshold 0.3"),
        ({"smooth": -1.0}, "smooth=-1.0 is no number of seconds"),
        ({"max_gap": float("nan")}, "max_gap=nan is no number of seconds"),
        ({"hop": 6.0}, "hop=6.0 is the distance of windows"),
    ],
)
def test_options_that_make_no_sense(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        zoo.detect(zoo.load("resnet_esc10"), map(pytest.fail, ["asked for its first"]), **options)
