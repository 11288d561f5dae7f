"""EfficientNet-B0 on AudioSet behind SincNet, whose 64 filters are learned with it (Ravanelli and Bengio, SLT 2018).

    audax-train prepare path/to/audioset/manifest.csv audioset --sample-rate 16000
    audax-train audioset_sincnet audioset runs/audioset_sincnet

Data: https://research.google.com/audioset, listed in a CSV of `files,labels,split`. As `audioset_leaf` but for the
frontend. The authors of audax report a mAP of 0.364.
"""

from dataclasses import replace

from . import audioset_leaf

base = audioset_leaf.recipe

recipe = replace(
    base,
    name="audioset_sincnet",
    model=replace(
        base.model,
        frontend=base.model.frontend | {"type": "SincNet"},
        paper="https://arxiv.org/abs/1808.00158",
    ),
)
