"""Draws a recording's log-mel spectrogram by audax_eqx and by torchaudio, and their difference.

python docs/figures/features.py OUT.png RECORDING ...

It draws the first recording, and prints the largest difference over all recordings. It needs torchaudio:
pip install ".[bench]". The picture on the page shows ESC-10's 1-187207-A.ogg
(https://github.com/karolpiczak/ESC-50, K. J. Piczak, CC BY 3.0).
"""

import sys

import numpy as np
import picture
import torch
import torchaudio
from matplotlib.figure import Figure

import zoo
from audax_eqx import features

RATE, HOP = 32000, 320
SETTINGS = {"n_fft": 1024, "hop_length": HOP, "n_mels": 64}


def mel_energies(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The mel energies of the recording by audax_eqx and by torchaudio, frames x bins."""
    wave = zoo.read(path, RATE)
    theirs = torchaudio.transforms.MelSpectrogram(RATE, **SETTINGS)(torch.from_numpy(wave)).numpy().T
    return np.asarray(features.mel_spectrogram(wave, RATE, **SETTINGS)), theirs


def decibels(mel: np.ndarray) -> np.ndarray:
    """The energies in decibels, at least 80 below the loudest: less is a rounding error of the loud ones in float32."""
    return 10 * np.log10(np.maximum(mel, max(1e-8 * mel.max(), 1e-10)))


def draw(out: str, path: str) -> None:
    pictures = [decibels(mel) for mel in mel_energies(path)]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    box = {"origin": "lower", "aspect": "auto", "extent": (0, len(pictures[0]) * HOP / RATE, 0, SETTINGS["n_mels"])}
    for axis, values, title in zip(axes, pictures, ("audax_eqx", "torchaudio"), strict=False):
        image = axis.imshow(values.T, cmap="magma", **box)
        axis.set(title=title, xlabel="seconds")
    figure.colorbar(image, ax=axes[:2], label="dB")
    difference = pictures[0] - pictures[1]
    bound = np.abs(difference).max()
    image = axes[2].imshow(difference.T, vmin=-bound, vmax=bound, cmap="RdBu", **box)
    axes[2].set(title="difference", xlabel="seconds")
    figure.colorbar(image, ax=axes[2], label="dB", format="%.1e")
    axes[0].set(ylabel="mel bin")
    picture.save(figure, out)


if __name__ == "__main__":
    out, *paths = sys.argv[1:]
    draw(out, paths[0])
    shares, levels = [], []
    for path in paths:
        ours, theirs = mel_energies(path)
        shares.append(np.abs(ours - theirs).max() / theirs.max())
        levels.append(np.abs(decibels(ours) - decibels(theirs)).max())
    print(f"{len(paths)} recordings: energies differ by at most {max(shares):.1e} of the largest of a clip,")
    print(f"decibels by at most {max(levels):.1e}, by {np.median(levels):.1e} in the median clip")
