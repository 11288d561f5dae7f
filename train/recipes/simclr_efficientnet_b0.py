"""EfficientNet-B0 learns from AudioSet without labels: SimCLR (Chen et al., 2020, arXiv:2002.05709).

The model matches two crops of 0.96 s of a clip, both masked, among all other crops of the batch.

    audax-train prepare path/to/audioset/manifest.csv audioset --sample-rate 16000
    audax-train simclr_efficientnet_b0 audioset runs/simclr_efficientnet_b0

Data: https://research.google.com/audioset, or any other recordings, listed in a CSV of `files,split` and
prepared with `--unlabelled`. All but head and loss is as in `cola_efficientnet_b0`.
"""

from dataclasses import replace

from ..objectives import NTXent
from . import cola_efficientnet_b0

base = cola_efficientnet_b0.recipe

recipe = replace(
    base,
    name="simclr_efficientnet_b0",
    model=replace(base.model, head={"type": "SimCLR", "width": 128, "temperature": 0.1}),
    objective=NTXent(augment=base.objective.augment),
)
