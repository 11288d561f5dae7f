"""Draws the features of one recording by each frontend; the learnable frontends have their initial parameters.

python docs/figures/frontends.py OUT.png RECORDING

The picture on the page shows ESC-10's 1-187207-A.ogg (https://github.com/karolpiczak/ESC-50, K. J. Piczak, CC BY 3.0).
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import picture
from matplotlib.figure import Figure

import zoo
from audax_eqx import frontends

RATE, BINS = 16000, 64


def draw(out: str, path: str) -> None:
    wave = jnp.asarray(zoo.read(path, RATE))
    models = (
        frontends.LogMel(RATE, BINS, n_fft=512, hop_length=160),
        frontends.PCEN(RATE, BINS, n_fft=512, hop_length=160),
        frontends.LEAF(RATE, BINS, key=jax.random.key(0)),
        frontends.SincNet(RATE, BINS),
    )
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    for axis, frontend in zip(figure.subplots(2, 2, sharex=True, sharey=True).flat, models, strict=True):
        x = np.asarray(eqx.filter_jit(frontend)(wave))
        low, high = np.percentile(x, (2, 99.8))
        extent = (0, wave.size / RATE, 0, BINS)
        axis.imshow(x.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma")
        axis.set(title=type(frontend).__name__)
        axis.label_outer()
    figure.supxlabel("seconds")
    figure.supylabel("bin")
    picture.save(figure, out)


if __name__ == "__main__":
    draw(*sys.argv[1:])
