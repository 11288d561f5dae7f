"""Ten environmental sounds, 5 s each (Piczak, ACM Multimedia 2015, doi:10.1145/2733373.2806390).

Data: https://github.com/karolpiczak/ESC-50 (the clips marked ESC-10, CC BY 3.0), listed in a CSV of
`files,labels,fold`. The network is the packaged encoder `cola_small`, which was trained on these clips without their
labels. Each fold is held out in turn, then a model is trained on all of them:

    audax-train prepare path/to/esc10/manifest.csv esc10 --sample-rate 16000
    audax-train cross-validate esc10 esc10 runs/esc10
    audax-train save runs/esc10 resnet_esc10 --dtype float16
"""

from ..objectives import Augment, Supervised
from ..recipe import Data, Model, Optimizer, Recipe, Run

recipe = Recipe(
    name="resnet_esc10",
    model=Model(start="cola_small"),
    data=Data(seconds=5.0, batch=16, hold_out="fold", held_out=("1",)),
    optimizer=Optimizer(learning_rate=2.4e-2, warmup=3.0),
    objective=Supervised(
        label_smoothing=0.1, mixup=0.5, augment=Augment(shift=True, gain=6.0, resize=1.25, frames=50, bins=8)
    ),
    run=Run(epochs=100.0, evaluate=20.0, checkpoint=20.0),
)
