"""Levels survive preparation: what is quiet, what is beyond full scale, from the file to the batch and the model."""

import csv
import json

import equinox as eqx
import jax
import numpy as np
import pytest
import soundfile

import zoo
from train.data import Dataset, Sampler, to_float32, train_batches
from train.metrics import Scorer
from train.records import prepare
from train.sounds import encode
from train.step import mesh

RATE = 8000


def noise(samples=RATE, level=0.5, seed=0):
    return np.random.default_rng(seed).uniform(-level, level, samples).astype(np.float32)


def prepared(folder, files, sample_rate=RATE):
    """A dataset of files that are (wave, subtype, sample rate)."""
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["files", "labels"])
        for number, (wave, subtype, rate) in enumerate(files):
            suffix = {"VORBIS": "ogg"}.get(subtype, "wav")
            soundfile.write(folder / f"{number}.{suffix}", wave, rate, subtype=subtype)
            writer.writerow([f"{number}.{suffix}", "ab"[number % 2]])
    about = prepare(folder / "manifest.csv", folder / "out", sample_rate=sample_rate, processes=1)
    return about, Dataset(folder / "out")


def share(found, wave):
    """Of the energy that is lost."""
    return np.sum((found.astype(np.float64) - wave) ** 2) / np.sum(wave.astype(np.float64) ** 2)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_32", "PCM_24", "PCM_16", "VORBIS"])
@pytest.mark.parametrize("rate", [RATE, 22050])
def test_no_level_loses_more_than_a_ten_thousandth(subtype, rate, tmp_path):
    """Of what `zoo.read` gives; each file is a tone, and quieter than the one before it."""
    levels = 10.0 ** -np.arange(0.2, {"PCM_16": 4.5, "VORBIS": 4.5, "PCM_24": 6.5, "PCM_32": 8.5}.get(subtype, 12))
    tones = [(level * np.sin(np.arange(rate // 2) / 5), subtype, rate) for level in levels]
    about, dataset = prepared(tmp_path, tones)
    for row, name in enumerate(dataset.ids):
        wave = zoo.read(tmp_path / name, RATE)
        assert np.abs(wave).max() > 0
        assert share(dataset.read(row), wave) < 1e-4
    exact = subtype == "PCM_16" and rate == RATE
    assert (about["kept_in_24_bits"] > 0) == (not exact) and dataset.dtype == (np.int16 if exact else np.float32)


def test_24_bits_survive_bit_by_bit(tmp_path):
    samples = np.array([-(2**23), 2**23 - 1, 0, 1, -1, 3, 2**15 + 1, -77777], np.int32) << 8
    files = [(np.repeat(part, RATE // 10), "PCM_24", RATE) for part in (samples, samples[3:6])]
    _, dataset = prepared(tmp_path, files)
    for row in range(2):
        np.testing.assert_array_equal(dataset.read(row), zoo.read(tmp_path / f"{row}.wav", RATE))


def test_a_click_does_not_excuse_what_is_lost_behind_it(tmp_path):
    wave = 1e-5 * np.sin(np.arange(4 * RATE) / 5)
    wave[100:200] = 0.9
    _, dataset = prepared(tmp_path, [(wave, "FLOAT", RATE)])
    assert share(dataset.read(0)[1000:], wave[1000:]) < 1e-4


def test_what_16_bits_hold_stays_in_16_bits(tmp_path, capsys):
    quiet = np.concatenate([noise(seed=1), np.zeros(RATE, np.float32), noise(seed=2)])  # digital silence in between
    files = [
        (noise(), "PCM_24", RATE),
        (quiet, "FLOAT", RATE),
        (np.zeros(800), "FLOAT", RATE),
        (quiet, "PCM_16", 22050),
    ]
    about, dataset = prepared(tmp_path, files)
    assert (about["kept_in_24_bits"], about["rounded_to_16_bits"]) == (0, 3) and dataset.dtype == np.int16
    assert "Rounded to 16 bits: 3 files." in capsys.readouterr().out


def test_samples_far_beyond_full_scale_keep_their_level(tmp_path, capsys):
    waves = [np.array([0.5, 1.5, -1.5, 1.0, -1.0, 2.0] * 99, np.float32), 32768 * noise(level=1.0)]
    about, dataset = prepared(tmp_path, [(wave, "FLOAT", RATE) for wave in waves])
    for row, wave in enumerate(waves):
        np.testing.assert_allclose(dataset.read(row), wave, atol=1e-6 * np.abs(wave).max())
    assert about["clipped"]["files"] == 0 and about["beyond_full_scale"] == 2
    assert "Far beyond full scale, and kept so: 2 files." in capsys.readouterr().out


def test_levels_reach_the_batches_and_the_model(tmp_path):
    """In one dataset with loud 16-bit files: crops, and what the model makes of them."""
    files = [(noise(5000, level, seed), subtype, RATE) for seed, (level, subtype) in enumerate(
        [(0.5, "PCM_16"), (1e-5, "FLOAT"), (1e-3, "PCM_24"), (3.0, "FLOAT")]
    )]  # fmt: skip
    _, dataset = prepared(tmp_path, files)
    waves = [zoo.read(tmp_path / name, RATE) for name in dataset.ids]
    for batch in train_batches(dataset, Sampler(np.arange(4), 8, seed=0), samples=1000, views=2, stop=3):
        crops = np.asarray(to_float32(batch.waves))[0]
        for row, views in zip(batch.rows[0], crops, strict=True):
            for crop in views:
                places = np.flatnonzero(np.abs(waves[row] - crop[0]) <= 1e-6 * np.abs(waves[row]).max())
                errors = [share(crop, waves[row][place : place + 1000]) for place in places if place <= 4000]
                assert min(errors) < 1e-4
    entry = zoo.Entry(
        name="tiny", frontend={"type": "LogMel", "sample_rate": RATE, "bins": 16, "n_fft": 256, "floor": 1e-16},
        network={"type": "ResNet", "depths": (1,), "widths": (8,)}, classes=2, labels=("a", "b"), task="multiclass",
        window=0.625,
    )  # fmt: skip
    model, state = zoo.create(entry, key=jax.random.key(0))
    clip = zoo.Pretrained(eqx.nn.inference_mode(model), state, entry)
    found = Scorer(entry, dataset, np.arange(4), mesh(1), 4).outputs(clip.model, clip.state)
    np.testing.assert_allclose(found, [np.asarray(clip.probabilities(wave)) for wave in waves], atol=1e-3)


def test_a_folder_of_the_first_version_still_loads(tmp_path):
    """It had no scales, and other counts."""
    about, _ = prepared(tmp_path, [(noise(), "PCM_16", RATE)])
    for name in ("kept_in_24_bits", "beyond_full_scale", "without_labels"):
        del about[name]
    (tmp_path / "out/dataset.json").write_text(json.dumps(about | {"version": 1}))
    dataset = Dataset(tmp_path / "out")
    np.testing.assert_array_equal(dataset.read(0), zoo.read(tmp_path / "0.wav", RATE))


def test_the_scale_is_the_next_power_of_two(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(level=1e-5), RATE, subtype="FLOAT")
    first = encode(str(tmp_path / "a.wav"), RATE)
    assert first == encode(str(tmp_path / "a.wav"), RATE) and first.scale == 2.0**-16
