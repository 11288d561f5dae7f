"""ResNet18 on Speech Commands v2: 35 words of 1 s (Warden, 2018, arXiv:1804.03209).

Data: http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz (CC BY 4.0), listed in a CSV of
`files,labels,split`: the word, and `training`, `validation` or `testing` by the two lists in the archive, for all 35
folders of words. Published accuracies are those of models that were trained without the validation clips: leave these
out of the manifest for a comparison. To tune the recipe, hold them out instead of the testing clips.

    audax-train prepare path/to/speech_commands/manifest.csv speech_commands --sample-rate 16000
    audax-train speech_commands_resnet18 speech_commands runs/speech_commands_resnet18

The frontend and the rate are those of `audioset_resnet18`; the masks are shorter in proportion to the clips.
"""

from dataclasses import replace

from ..objectives import Augment, Supervised
from ..recipe import Data
from . import audioset_resnet18

base = audioset_resnet18.recipe

recipe = replace(
    base,
    name="speech_commands_resnet18",
    data=Data(seconds=1.0, batch=1024, hold_out="split", held_out=("testing",)),
    optimizer=replace(base.optimizer, warmup=5.0),
    objective=Supervised(mixup=0.5, augment=Augment(frames=10, bins=8, masks=2)),
    run=replace(base.run, best="accuracy"),
)
