"""The README's Python, pasted block after block, and the sound that `make demo` listens to."""

import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def sound(tmp_path, monkeypatch) -> pathlib.Path:
    """`demo/clock.wav` in an empty working directory, as `make demo` makes it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "demo" / "clock.wav"
    path.parent.mkdir()
    subprocess.run([sys.executable, ROOT / "docs" / "figures" / "sounds.py", path], check=True)
    return path


def test_readme_runs_and_its_fine_tuning_lowers_the_loss(sound):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    names = {}
    losses = []
    for block in blocks:
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
            exec(compile(block, "README.md", "exec"), names)
        if "value" in names and not losses:
            first = names["clip"].thaw(classes=2, key=jax.random.key(0))
            losses = [float(names["loss"](*first, names["waves"], names["targets"])[0]), float(names["value"])]
    assert losses[1] < losses[0]
    assert names["frames"].shape == (len(names["frames"]), names["clip"].model.network.width)
    saved = names["zoo"].load("demo/rain_or_clock")
    np.testing.assert_array_equal(saved.model.head.weight, names["model"].head.weight)


def test_the_recipe_in_the_docs_is_one():
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL | re.MULTILINE
    )
    names = {}
    exec(compile(block, "docs/training.md", "exec"), names)
    entry = names["recipe"].entry(("robin", "wren"))
    assert (entry.classes, entry.network["type"], entry.window) == (2, "efficientnet_b0", 5.0)


def test_the_demo_sound_is_audible_and_does_not_clip(sound):
    import zoo

    wave = zoo.read(sound, 32000)
    assert len(wave) == 20 * 32000
    assert 0.1 < np.abs(wave).max() <= 1.0


def test_the_packaged_model_hears_rain_and_then_a_clock(sound):
    import zoo

    clip = zoo.load("resnet_esc10")
    heard = [clip.top(wave, k=1)[0][0] for wave, _ in zoo.windows(sound, clip.sample_rate, clip.entry.window)]
    assert heard == ["rain", "rain", "clock_tick", "clock_tick"]
