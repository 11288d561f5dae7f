"""COLA on a small network and few recordings: an encoder of 0.3 million parameters.

Data: any recordings, listed in a CSV of `files,labels` whose label is the set that a file comes from. All sets are
drawn equally often; the labels serve for nothing else. The packaged `cola_small` was trained on ESC-10
(https://github.com/karolpiczak/ESC-50) and the Free Spoken Digit Dataset
(https://github.com/Jakobovski/free-spoken-digit-dataset):

    audax-train prepare path/to/sounds.csv sounds --sample-rate 16000
    audax-train cola_small sounds runs/cola
    audax-train save runs/cola cola_small --dtype float16
"""

from ..objectives import Augment, Matching
from ..recipe import Data, Model, Optimizer, Recipe, Run

recipe = Recipe(
    name="cola_small",
    model=Model(
        frontend={
            "type": "LogMel",
            "sample_rate": 16000,
            "bins": 64,
            "n_fft": 512,
            "win_length": 400,
            "hop_length": 160,
            "f_min": 60.0,
            "f_max": 7800.0,
            "floor": 1e-5,
        },
        network={"type": "ResNet", "depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128)},
        head={"type": "COLA", "width": 128},
        paper="https://arxiv.org/abs/2010.10915",
    ),
    data=Data(seconds=0.96, batch=128, balanced=True),
    optimizer=Optimizer(learning_rate=4e-3, warmup=2.0),
    objective=Matching(augment=Augment(shift=True, gain=6.0, noise=10.0, resize=1.2, frames=10, bins=10)),
    run=Run(epochs=80.0, checkpoint=2.0, log=20),
)
