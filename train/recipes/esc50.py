"""ResNet18 on 50 environmental sounds, 40 clips of 5 s each (Piczak, ACM Multimedia 2015, doi:10.1145/2733373.2806390).

Data: https://github.com/karolpiczak/ESC-50 (CC BY-NC 3.0). Its own table is a manifest but for two names:

    sed '1s/filename/files/;1s/category/labels/' ESC-50/meta/esc50.csv > ESC-50/audio/manifest.csv
    audax-train prepare ESC-50/audio/manifest.csv esc50 --sample-rate 32000
    audax-train esc50 esc50 runs/esc50
    audax-train cross-validate esc50 esc50 runs/esc50-folds

The first run holds out fold 1. Clips of one recording are in one fold, and the accuracy that is reported for ESC-50 is
the mean over its five folds, which the second measures. Frontend and augmentation are those of `esc10`, at 32 kHz
instead of the clips' 44.1 kHz.
"""

from dataclasses import replace

from ..recipe import Data, Optimizer
from . import esc10

base = esc10.recipe

recipe = replace(
    base,
    name="esc50",
    model=replace(base.model, network={"type": "resnet18"}),
    data=Data(seconds=5.0, batch=64, hold_out="fold", held_out=("1",)),
    optimizer=Optimizer(learning_rate=4e-3, warmup=5.0),
)
