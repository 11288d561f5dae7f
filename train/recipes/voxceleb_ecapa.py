"""Speaker verification: ECAPA-TDNN with an additive angular margin (Desplanques et al., 2020, arXiv:2005.07143).

Data: https://www.robots.ox.ac.uk/~vgg/data/voxceleb (see there for its terms), listed in a CSV of `files,labels,split`:
the speaker, and `train` or `validation`. Leave the test speakers out of the manifest: pairs of their clips measure how
well the model tells voices apart that it has not heard.

    audax-train prepare path/to/voxceleb/manifest.csv voxceleb --sample-rate 16000
    audax-train voxceleb_ecapa voxceleb runs/ecapa
    audax-zoo compare --trials path/to/voxceleb1/veri_test2.txt --root path/to/voxceleb1/wav --model runs/ecapa/model
"""

from ..objectives import Augment, Supervised
from ..recipe import Data, Model, Optimizer, Recipe, Run

recipe = Recipe(
    name="voxceleb_ecapa",
    model=Model(
        frontend={"type": "SpeechBrainFbank", "sample_rate": 16000, "bins": 80},
        network={"type": "ecapa_1024"},
        head={"type": "Classifier", "cosine": 30.0},
        paper="https://arxiv.org/abs/2005.07143",
    ),
    data=Data(seconds=3.0, batch=256, hold_out="split", held_out=("validation",)),
    optimizer=Optimizer(learning_rate=1e-3, warmup=1.0, weight_decay=2e-5),
    objective=Supervised(margin=0.2, augment=Augment(gain=6.0, frames=20, bins=10, masks=2)),
    run=Run(epochs=40.0, best="accuracy"),
)
