"""A pretrained network learns other sounds: a new head, and a tenth of its rate for all pretrained parameters.

Data: recordings of your own, listed in a CSV of `files,labels,split`, prepared at the model's sample rate; the clips
whose `split` is `test` are evaluated on. `audax-zoo info NAME` tells a model's sample rate and native length:

    audax-train prepare path/to/manifest.csv sounds --sample-rate 16000
    audax-train finetune sounds runs/finetuned
    audax-train prepare path/to/manifest.csv sounds-32k --sample-rate 32000
    audax-train finetune sounds-32k runs/tagger --model.start convnext_audioset --data.seconds 10

The frontend is frozen, which matters for the learned ones of speech models; `--optimizer.freeze 'network.stages.0.*'`
freezes another part instead. `--model.lora 8` trains adapters of rank 8 instead of the network. `--model.layers
weighted` gives the head a learned sum of a Transformer's layers; `linear_probe` learns the weights of that sum, too,
with `--optimizer.freeze 'frontend.*' 'network.network.*'`. The notes of `linear_probe` on other models and on clips
with several labels apply to this recipe too.
"""

from dataclasses import replace

from ..objectives import Augment, Supervised
from . import linear_probe

base = linear_probe.recipe

recipe = replace(
    base,
    name="finetune",
    optimizer=replace(
        base.optimizer,
        learning_rate=4e-3,
        warmup=2.0,
        weight_decay=0.05,
        freeze=("frontend.*",),
        rates=(("head.*", 1.0), ("*", 0.1)),
    ),
    objective=Supervised(label_smoothing=0.1, mixup=0.3, augment=Augment(frames=25, bins=8, masks=2)),
)
