"""Writes figures for the scripts in this folder."""

import io

from matplotlib.figure import Figure
from PIL import Image


def save(figure: Figure, out: str) -> None:
    """Saves the figure as a PNG with a palette, which is a third of the size of one without."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    Image.open(png).convert("RGB").quantize(128).save(out, optimize=True)
