"""A linear probe in epochs of crops: a new head on the embeddings of a pretrained network, which stays frozen.

`audax-train probe` trains such a head in seconds, on embeddings that are computed once. This recipe can also augment
the clips, and learn the weights of a sum of layers.

Data: recordings of your own, listed in a CSV of `files,labels,split`, prepared at the model's sample rate; the clips
whose `split` is `test` are evaluated on. `audax-zoo info NAME` tells a model's sample rate and native length:

    audax-train prepare path/to/manifest.csv sounds --sample-rate 16000
    audax-train linear_probe sounds runs/probe
    audax-train linear_probe sounds runs/ast --model.start ast_audioset --data.seconds 10.24
    audax-train linear_probe sounds runs/cola --model.start runs/cola_convnext_tiny/model --data.seconds 1

ConvNeXt, ResNet and EfficientNet take crops of any length. AST pads shorter crops with zeros to its native length, and
cuts longer ones. Clips with several labels need `--objective.task multilabel`.
"""

import zoo

from ..objectives import Supervised
from ..recipe import Data, Model, Optimizer, Recipe, Run

START = "cola_small"  # comes with the package
FROZEN = ("frontend.*", "network.*", "norm.*", "hidden.*")

recipe = Recipe(
    name="linear_probe",
    model=Model(start=START),
    data=Data(seconds=zoo.info(START).window, batch=64, hold_out="split", held_out=("test",)),
    optimizer=Optimizer(learning_rate=1e-2, warmup=1.0, weight_decay=0.0, freeze=FROZEN),
    objective=Supervised(),
    run=Run(epochs=50.0, evaluate=5.0, checkpoint=5.0, log=20),
)
