"""EfficientNet-B0 learns from AudioSet without labels: COLA (Saeed et al., 2021, arXiv:2010.10915).

The model finds, among the batch's crops of 0.96 s, the one from the same clip. A larger batch makes that harder.

    audax-train prepare path/to/audioset/manifest.csv audioset --sample-rate 16000
    audax-train cola_efficientnet_b0 audioset runs/cola_efficientnet_b0

Data: https://research.google.com/audioset, or any other recordings, listed in a CSV of `files,split` and
prepared with `--unlabelled`. The folder prepared for `audioset_resnet18` serves too, and its labels are ignored. To
measure the model, train `linear_probe` with `--model.start runs/cola_efficientnet_b0/model`.
"""

from dataclasses import replace

from ..objectives import Augment, Matching
from ..recipe import Data
from . import audioset_efficientnet_b0

base = audioset_efficientnet_b0.recipe

recipe = replace(
    base,
    name="cola_efficientnet_b0",
    model=replace(base.model, head={"type": "COLA", "width": 512, "similarity": "bilinear"}, dropout=0.0),
    data=Data(seconds=0.96, batch=1024, hold_out="split", held_out=("eval",)),
    optimizer=replace(base.optimizer, learning_rate=1e-3, warmup=5.0),
    objective=Matching(augment=Augment(frames=10, bins=10, masks=2)),
    run=replace(base.run, best="accuracy"),
)
