"""What does a pretrained network know? A new head on its embeddings, and nothing else is trained, by epochs of crops.

`audax-train probe` finds such a head in seconds, from embeddings that are computed once; this recipe augments, and
learns the weights of layers.

Data: recordings of your own, listed in a CSV of `files,labels,split`, prepared at the model's sample rate; the clips
whose `split` is `test` are evaluated on. `audax-zoo info NAME` tells a model's sample rate and native length:

    audax-train prepare path/to/manifest.csv sounds --sample-rate 16000
    audax-train linear_probe sounds runs/probe
    audax-train linear_probe sounds runs/ast --model.start ast_audioset --data.seconds 10.24
    audax-train linear_probe sounds runs/cola --model.start runs/cola_convnext_tiny/model --data.seconds 1

ConvNeXt, ResNet and EfficientNet take crops of any length; AST fills up with zeros what is shorter than its own and
cuts what is longer. Clips with several labels take `--objective.task multilabel`.
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
