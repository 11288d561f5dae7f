"""ConvNeXt-Tiny on AudioSet: the data and the numbers of `audioset_resnet18`.

    audax-train prepare path/to/audioset/manifest.csv audioset --sample-rate 16000
    audax-train audioset_convnext_tiny audioset runs/audioset_convnext_tiny

Data: https://research.google.com/audioset, listed in a CSV of `files,labels,split`. The authors of audax
report a mAP of 0.402.
"""

from dataclasses import replace

from . import audioset_resnet18

base = audioset_resnet18.recipe

recipe = replace(
    base,
    name="audioset_convnext_tiny",
    model=replace(base.model, network={"type": "convnext_tiny"}, paper="https://arxiv.org/abs/2201.03545"),
)
