"""ConvNeXt-Tiny learns from AudioSet without labels: the data and the numbers of `simclr_efficientnet_b0`.

    audax-train prepare path/to/audioset/manifest.csv audioset --sample-rate 16000
    audax-train simclr_convnext_tiny audioset runs/simclr_convnext_tiny

Data: https://research.google.com/audioset, or any other recordings, listed in a CSV of `files,split` and
prepared with `--unlabelled`.
"""

from dataclasses import replace

from . import cola_convnext_tiny, simclr_efficientnet_b0

base = simclr_efficientnet_b0.recipe

recipe = replace(
    base,
    name="simclr_convnext_tiny",
    model=replace(cola_convnext_tiny.recipe.model, head=base.model.head),
)
