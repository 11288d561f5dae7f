"""The README's Python, pasted block after block, and the packaged sound."""

import jax
import numpy as np
import pages

import zoo


def test_readme_runs_and_its_fine_tuning_lowers_the_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    after = pages.run(pages.README)
    assert len(after) >= 4
    names = after["Fine-tuning in your own loop"]
    model, state = names["clip"].thaw(classes=2, key=jax.random.key(0))
    with jax.numpy_dtype_promotion("standard"):
        first, _ = names["loss"](model, state, names["waves"], names["targets"])
    assert float(names["value"]) < float(first)
    assert names["frames"].shape == (len(names["frames"]), names["clip"].model.network.width)
    saved = names["zoo"].load("rain_or_clock")
    np.testing.assert_array_equal(saved.model.head.weight, names["model"].head.weight)


def test_the_packaged_sound_is_audible_and_does_not_clip():
    wave = zoo.read(zoo.example(), 32000)
    assert len(wave) == 20 * 32000
    assert 0.1 < np.abs(wave).max() <= 1.0


def test_the_packaged_model_hears_rain_and_then_a_clock():
    clip = zoo.load("resnet_esc10")
    heard = [clip.top(wave, k=1)[0][0] for wave, _ in zoo.windows(zoo.example(), clip.sample_rate, clip.entry.window)]
    assert heard == ["rain", "rain", "clock_tick", "clock_tick"]
