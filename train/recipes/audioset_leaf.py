"""EfficientNet-B0 on AudioSet behind LEAF, whose 64 filters are learned with it (Zeghidour et al., ICLR 2021).

    audax-train prepare path/to/audioset/manifest.csv audioset --sample-rate 16000
    audax-train audioset_leaf audioset runs/audioset_leaf

Data: https://research.google.com/audioset, listed in a CSV of `files,labels,split`. As `audioset_efficientnet_b0`, with
less weight decay; SpecAugment masks the output of the frontend. The authors of audax report a mAP of 0.380.
"""

from dataclasses import replace

from . import audioset_efficientnet_b0

base = audioset_efficientnet_b0.recipe

recipe = replace(
    base,
    name="audioset_leaf",
    model=replace(
        base.model,
        frontend={"type": "LEAF", "sample_rate": 16000, "bins": 64},
        paper="https://arxiv.org/abs/2101.08596",
    ),
    optimizer=replace(base.optimizer, weight_decay=1e-6),
)
