"""Makes the sound that comes with the package, `zoo.example()`: ten seconds of rain, then ten of a ticking clock.

python docs/figures/sounds.py zoo/sounds/rain_clock.ogg
"""

import sys

import numpy as np
import soundfile

RATE = 44100


def rain(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Hiss whose spectrum falls slowly, and thousands of drops: short decaying tones at random times."""
    samples = round(seconds * RATE)
    spectrum = np.fft.rfft(rng.normal(size=samples))
    freqs = np.fft.rfftfreq(samples, 1 / RATE)
    wave = np.fft.irfft(spectrum / np.sqrt(1 + (freqs / 2500) ** 2), samples)
    wave *= 0.05 / wave.std()
    time = np.arange(round(0.012 * RATE)) / RATE
    for start in rng.integers(0, samples - len(time), round(120 * seconds)):
        drop = np.sin(2 * np.pi * rng.uniform(1500, 7000) * time) * np.exp(-time / rng.uniform(0.001, 0.003))
        wave[start : start + len(time)] += rng.exponential(0.05) * drop
    return wave


def clock(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Two ticks a second, tick and tock by turns: clicks that ring at a few pitches, over a faint noise of the room."""
    samples = round(seconds * RATE)
    wave = 0.0005 * rng.normal(size=samples)
    time = np.arange(round(0.06 * RATE)) / RATE
    for tick in range(int(2 * seconds)):
        pitches = (2300, 3900, 6100) if tick % 2 else (2000, 3400, 5600)
        ring = sum(np.sin(2 * np.pi * pitch * time) * np.exp(-time * pitch / 15) for pitch in pitches)
        ring += rng.normal(size=len(time)) * np.exp(-time / 0.001)
        start = round((tick / 2 + 0.1) * RATE)
        wave[start : start + len(time)] += 0.2 * ring[: samples - start]
    return wave


if __name__ == "__main__":
    random = np.random.default_rng(0)
    sound = np.concatenate([rain(10, random), clock(10, random)])
    sound = (sound / max(1.0, np.abs(sound).max())).astype(np.float32)
    soundfile.write(sys.argv[1], sound, RATE, format="OGG", subtype="VORBIS", compression_level=0.6)
