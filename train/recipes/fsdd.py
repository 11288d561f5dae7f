"""Spoken digits, 8 kHz (Jakobovski et al., Free Spoken Digit Dataset, CC BY-SA 4.0).

Data: https://github.com/Jakobovski/free-spoken-digit-dataset, listed in a CSV of `files,labels,speaker,index`. Takes 5
to 9 are held out; `--data.hold-out speaker --data.held-out george` holds out a speaker instead. PCEN removes level and
channel of a recording, in which speakers differ most. Masks are narrow, because some recordings are shorter than 0.2 s.

    audax-train prepare path/to/fsdd/manifest.csv digits --sample-rate 8000
    audax-train fsdd digits runs/digits
    audax-train save runs/digits resnet_fsdd --dtype float16
"""

from ..objectives import Augment, Supervised
from ..recipe import Data, Model, Optimizer, Recipe, Run

recipe = Recipe(
    name="resnet_fsdd",
    model=Model(
        frontend={"type": "PCEN", "sample_rate": 8000, "bins": 40, "n_fft": 256, "hop_length": 80, "f_min": 60.0},
        network={"type": "ResNet", "depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128)},
        dropout=0.2,
        paper="https://arxiv.org/abs/1512.03385",
    ),
    data=Data(seconds=1.0, batch=64, hold_out="index", held_out=("5", "6", "7", "8", "9")),
    optimizer=Optimizer(learning_rate=1.2e-2, warmup=1.0),
    objective=Supervised(
        label_smoothing=0.1, mixup=0.1, augment=Augment(shift=True, gain=6.0, resize=1.2, frames=5, bins=4)
    ),
    run=Run(epochs=40.0, evaluate=5.0, checkpoint=1.0, log=20),
)
