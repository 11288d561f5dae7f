"""EfficientNet-B0 on AudioSet: the data and the numbers of `audioset_resnet18`.

    audax-train prepare path/to/audioset/manifest.csv audioset --sample-rate 16000
    audax-train audioset_efficientnet_b0 audioset runs/audioset_efficientnet_b0

Data: https://research.google.com/audioset, listed in a CSV of `files,labels,split`. The authors of audax
report a mAP of 0.383.
"""

from dataclasses import replace

from . import audioset_resnet18

base = audioset_resnet18.recipe

recipe = replace(
    base,
    name="audioset_efficientnet_b0",
    model=replace(base.model, network={"type": "efficientnet_b0"}, paper="https://arxiv.org/abs/1905.11946"),
)
