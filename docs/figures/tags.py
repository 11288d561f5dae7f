"""Draws the packaged model's labels over recordings in a row, as `audax-zoo tag --plot` does.

python docs/figures/tags.py OUT.png RECORDING ...

The picture on the page shows ESC-10's 1-26806-A, 1-17367-A, 1-187207-A, 1-21934-A and 1-100032-A
(https://github.com/karolpiczak/ESC-50, K. J. Piczak, CC BY 3.0).
"""

import pathlib
import sys
import tempfile

import numpy as np
import soundfile
from PIL import Image

import zoo
from zoo.__main__ import main

RATE = 44100

if __name__ == "__main__":
    out, *paths = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        sound, plot = pathlib.Path(folder, "five clips in a row"), pathlib.Path(folder, "plot.png")
        soundfile.write(sound, np.concatenate([zoo.read(path, RATE) for path in paths]), RATE, format="WAV")
        main(["tag", str(sound), "-k", "5", "--plot", str(plot)])
        image = Image.open(plot).convert("RGB")
        image.resize((1000, image.height * 1000 // image.width)).quantize(256).save(out, optimize=True)
