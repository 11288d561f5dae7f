"""Ten environmental sounds, 5 s each (Piczak, ACM Multimedia 2015, doi:10.1145/2733373.2806390).

Data: https://github.com/karolpiczak/ESC-50 (the clips marked ESC-10, CC BY 3.0), listed in a CSV of
`files,labels,fold`. Each fold is held out in turn, then a model is trained on all:

    audax-train prepare path/to/esc10/manifest.csv esc10 --sample-rate 32000
    audax-train cross-validate esc10 esc10 runs/esc10
    audax-train save runs/esc10 resnet_esc10 --dtype float16

The log-mel floor of -50 dB hides the digital silence that many clips are filled up with.
"""

from ..objectives import Augment, Supervised
from ..recipe import Data, Model, Optimizer, Recipe, Run

recipe = Recipe(
    name="resnet_esc10",
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
        network={"type": "ResNet", "depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128)},
        dropout=0.3,
        paper="https://arxiv.org/abs/1512.03385",
    ),
    data=Data(seconds=5.0, batch=16, hold_out="fold", held_out=("1",)),
    optimizer=Optimizer(learning_rate=3.2e-2, warmup=5.0),
    objective=Supervised(
        label_smoothing=0.1, mixup=0.5, augment=Augment(shift=True, gain=6.0, resize=1.25, frames=25, bins=8)
    ),
    run=Run(epochs=200.0, evaluate=20.0, checkpoint=20.0),
)
