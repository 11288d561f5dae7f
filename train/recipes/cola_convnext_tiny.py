"""ConvNeXt-Tiny learns from AudioSet without labels: the data and the numbers of `cola_efficientnet_b0`.

    audax-train prepare path/to/audioset/manifest.csv audioset --sample-rate 16000
    audax-train cola_convnext_tiny audioset runs/cola_convnext_tiny

Data: https://research.google.com/audioset, or any other recordings, listed in a CSV of `files,split` and
prepared with `--unlabelled`.
"""

from dataclasses import replace

from . import audioset_convnext_tiny, cola_efficientnet_b0

base = cola_efficientnet_b0.recipe

recipe = replace(
    base,
    name="cola_convnext_tiny",
    model=replace(audioset_convnext_tiny.recipe.model, head=base.model.head, dropout=0.0),
)
