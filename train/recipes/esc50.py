"""ResNet18 on 50 environmental sounds, 40 clips of 5 s each (Piczak, ACM Multimedia 2015, doi:10.1145/2733373.2806390).

Data: https://github.com/karolpiczak/ESC-50 (CC BY-NC 3.0). Its own table is a manifest once two columns are renamed:

    sed '1s/filename/files/;1s/category/labels/' ESC-50/meta/esc50.csv > ESC-50/audio/manifest.csv
    audax-train prepare ESC-50/audio/manifest.csv esc50 --sample-rate 32000
    audax-train esc50 esc50 runs/esc50
    audax-train cross-validate esc50 esc50 runs/esc50-folds

The first run holds out fold 1. All clips of one recording are in one fold. The accuracy that is reported for ESC-50 is
the mean over its five folds, which the second run measures. Many clips are padded with digital silence, which the
log-mel floor of -50 dB hides.
"""

from ..objectives import Augment, Supervised
from ..recipe import Data, Model, Optimizer, Recipe, Run

recipe = Recipe(
    name="esc50",
    model=Model(
        frontend={
            "type": "LogMel",
            "sample_rate": 32000,
            "bins": 64,
            "n_fft": 1024,
            "hop_length": 640,
            "f_min": 50.0,
            "f_max": 14000.0,
            "mel_scale": "slaney",
            "norm": "slaney",
            "floor": 1e-5,
        },
        network={"type": "resnet18"},
        dropout=0.3,
        paper="https://arxiv.org/abs/1512.03385",
    ),
    data=Data(seconds=5.0, batch=64, hold_out="fold", held_out=("1",)),
    optimizer=Optimizer(learning_rate=4e-3, warmup=5.0),
    objective=Supervised(
        label_smoothing=0.1, mixup=0.5, augment=Augment(shift=True, gain=6.0, resize=1.25, frames=25, bins=8)
    ),
    run=Run(epochs=200.0, evaluate=20.0, checkpoint=20.0),
)
