"""Pairs of recordings: errors against closed forms, lists of trials, and the command on real files."""

import csv

import numpy as np
import pytest
import soundfile

import zoo
from zoo.__main__ import main
from zoo._speakers import Pair, cosine, equal_error_rate, minimum_cost, read_pairs

ONE, TWO = [0.9, 0.8, 0.3], [0.7, 0.2, 0.1]  # scores of pairs of one speaker, and of two


def rates(one, two, **options):
    scores = np.array([*one, *two])
    same = np.arange(len(scores)) < len(one)
    order = np.random.default_rng(0).permutation(len(scores))
    return equal_error_rate(scores[order], same[order]), minimum_cost(scores[order], same[order], **options)


@pytest.mark.parametrize(
    "one, two, rate, cost",
    [
        ([2.0, 3.0], [0.0, 1.0], 0.0, 0.0),  # parted
        ([0.0, 1.0], [2.0, 3.0], 1.0, 1.0),  # the wrong way round
        ([0.5] * 4, [0.5] * 9, 0.5, 1.0),  # no threshold parts them
        (ONE, TWO, 1 / 3, 1 / 3),  # above 0.7: a third missed, no alarm
        ([1.0, 0.0], [0.5], 0.5, 0.5),
        ([3.0], [4.0, 2.0, 1.0, 0.0], 0.25, 1.0),  # at 3: one alarm of four, and nothing missed
    ],
)
def test_errors_are_their_closed_forms(one, two, rate, cost):
    found = rates(one, two)
    np.testing.assert_allclose(found, (rate, cost), atol=1e-12)
    np.testing.assert_allclose(rates(np.exp(one), np.exp(two)), found, atol=1e-12)  # the order alone counts
    np.testing.assert_allclose(rates(one * 3, two * 3), found, atol=1e-12)


def test_errors_of_two_normal_distributions():
    draw = np.random.default_rng(1).standard_normal
    rate, cost = rates(draw(200_000) + 2.0, draw(200_000), prior=0.5)
    assert abs(rate - 0.158655) < 2e-3  # the normal distribution below -1
    assert abs(cost - 2 * 0.158655) < 4e-3  # which is also the best threshold where both kinds are as frequent


def test_the_prior_weighs_alarms_and_misses():
    assert rates(ONE, TWO, prior=0.99)[1] == pytest.approx(1 / 3)  # at 0.3: an alarm of three, and nothing missed
    for prior in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="probability of one speaker"):
            rates(ONE, TWO, prior=prior)


@pytest.mark.parametrize("one, two", [([], TWO), (ONE, []), ([], [])])
def test_errors_need_pairs_of_both_kinds(one, two):
    with pytest.raises(ValueError, match="give some of both"):
        rates(one, two)
    with pytest.raises(ValueError, match="NaN or infinite"):
        rates([np.nan], [1.0])


def test_cosines():
    assert cosine(np.array([3.0, 4.0]), np.array([4.0, 3.0])) == pytest.approx(0.96)
    assert cosine(np.array([1e-30, 0.0]), np.array([-2e30, 0.0])) == pytest.approx(-1.0)
    assert cosine(np.zeros(2), np.ones(2)) == 0.0


# Lists ----------------------------------------------------------------------------------------------------------------


def listed(tmp_path, text, **options):
    path = tmp_path / "trials.txt"
    path.write_text(text)
    return read_pairs(path, **options)


def test_lists_of_trials(tmp_path):
    pairs = listed(tmp_path, "1 a/1.wav a/2.wav\r\n\n0 a/1.wav b/1.wav\n")
    assert pairs[0] == Pair(str(tmp_path / "a/1.wav"), str(tmp_path / "a/2.wav"), True)
    assert [pair.same for pair in pairs] == [True, False]
    assert listed(tmp_path, "x y\n", root=tmp_path / "wav") == [Pair(str(tmp_path / "wav/x"), str(tmp_path / "wav/y"))]
    (pair,) = listed(tmp_path, "nontarget\tmy voice.wav\t/b c.wav")
    assert (pair.first, pair.second, pair.same) == (str(tmp_path / "my voice.wav"), "/b c.wav", False)


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", "has no trials"),
        ("1 a.wav b.wav\na.wav\n", "Line 2 of .* is 'a.wav'"),
        ("2 a.wav b.wav", "Line 1"),
        ("1 a.wav b.wav c.wav", "Line 1"),
        ("my voice.wav b.wav", "Line 1"),
        ("1 a.wav b.wav\na.wav b.wav", "trials with a label and trials without"),
    ],
)
def test_other_lists_are_told_in_a_sentence(tmp_path, text, fault):
    with pytest.raises(ValueError, match=fault) as raised:
        listed(tmp_path, text)
    assert "\n" not in str(raised.value)


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def voices(tmp_path, monkeypatch):
    """Three sounds, of which two are alike, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    wave, rate = soundfile.read(zoo.example(), dtype="float32", frames=60000, always_2d=True)
    ramp = np.linspace(0, 1, len(wave))[:, None]
    for name, each in (("a", wave), ("b", 0.5 * wave), ("c", wave[::-1] * ramp)):
        soundfile.write(f"{name}.wav", each, rate)
    return tmp_path


def test_two_recordings_are_compared(voices, capsys):
    assert main(["compare", "a.wav", "a.wav", "--model", "cola_small"]) == 0
    assert capsys.readouterr().out == "1.0000\n"
    assert main(["compare", "a.wav", "c.wav", "--model", "cola_small"]) == 0
    clip = zoo.load("cola_small")
    first, second = (result.values[0] for result in zoo.embed(clip, ["a.wav", "c.wav"]))
    assert float(capsys.readouterr().out) == pytest.approx(cosine(first, second), abs=1e-4)


def test_a_list_of_trials_is_scored_and_what_cannot_be_read_is_told(voices, capsys):
    (voices / "trials.txt").write_text("1 a.wav b.wav\n0 a.wav c.wav\n0 c.wav b.wav\n1 a.wav none.wav\n")
    arguments = ["compare", "--trials", "trials.txt", "--model", "cola_small", "-o", "scores.csv"]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == ["trials 3 of 4, of one speaker 1", "EER 0.0000"]
    assert out.splitlines()[2].startswith("minDCF 0.0000")
    assert "1 of 4 files could not be read" in err and "none.wav" in err
    with open("scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["1", "0", "0"]
    assert float(rows[0]["score"]) > max(float(row["score"]) for row in rows[1:])


def test_pairs_without_labels_are_printed(voices, capsys):
    (voices / "trials.txt").write_text("a.wav b.wav\n")
    assert main(["compare", "--trials", "trials.txt", "--model", "cola_small"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head == "label,first,second,score" and row.startswith(",a.wav,b.wav,0.9")


@pytest.mark.parametrize(
    "arguments, fault",
    [
        (["a.wav"], "takes two recordings"),
        ([], "takes two recordings"),
        (["a.wav", "b.wav", "--trials", "x"], "takes two recordings"),
        (["a.wav", "b.wav", "c.wav"], "takes two recordings"),
        (["a.wav", "b.wav", "-o", "x.json"], "writes .csv"),
        (["--trials", "none.txt"], "none.txt"),
    ],
)
def test_what_cannot_be_compared_is_told(voices, capsys, arguments, fault):
    assert main(["compare", *arguments]) == 2
    assert fault in capsys.readouterr().err
