"""Speaker identification: EfficientNet-B0 on the 1,251 speakers of VoxCeleb1 (Nagrani et al., 2017, arXiv:1706.08612).

Data: https://www.robots.ox.ac.uk/~vgg/data/voxceleb (see there for its terms), listed in a CSV of `files,labels,split`:
the speaker, and `train`, `validation` or `test` for the 1, 2 or 3 of its `iden_split.txt`. All parts have all speakers,
and no video is in two parts. To tune the recipe, leave the test clips out of the manifest and hold out `validation`.

    audax-train prepare path/to/voxceleb1/manifest.csv voxceleb1 --sample-rate 16000
    audax-train voxceleb voxceleb1 runs/voxceleb

The recipe trains on crops of 3 s, like the paper. The probabilities of a test clip are the mean over its crops.
"""

from dataclasses import replace

from ..objectives import Augment, Supervised
from ..recipe import Data
from . import audioset_efficientnet_b0

base = audioset_efficientnet_b0.recipe

recipe = replace(
    base,
    name="voxceleb",
    data=Data(seconds=3.0, batch=512, hold_out="split", held_out=("test",)),
    optimizer=replace(base.optimizer, warmup=5.0),
    objective=Supervised(label_smoothing=0.1, augment=Augment(frames=30, bins=8, masks=2)),
    run=replace(base.run, best="accuracy"),
)
