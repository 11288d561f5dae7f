"""ResNet18 on AudioSet: 527 sounds, several of them in each clip of 10 s (Gemmeke et al., ICASSP 2017).

Data: https://research.google.com/audioset (the labels are CC BY 4.0; the clips are on YouTube, under their own
licences), listed in a CSV of `files,labels,split`: the names of a clip's labels, separated by semicolons, and `train`
for both training sets or `eval`. All recipes for AudioSet take the same prepared folder.

    audax-train prepare path/to/audioset/manifest.csv audioset --sample-rate 16000
    audax-train audioset_resnet18 audioset runs/audioset_resnet18

The numbers are those of audax (Flax, 2022), whose authors report a mAP of 0.365 for its ResNet18. Unlike in audax, rare
labels are drawn as often as frequent ones, as in PSLA (arXiv:2102.01243); `--data.no-balanced` draws all clips equally
often.
"""

from ..objectives import Augment, Supervised
from ..recipe import Data, Model, Optimizer, Recipe, Run

recipe = Recipe(
    name="audioset_resnet18",
    model=Model(
        frontend={
            "type": "LogMel",
            "sample_rate": 16000,
            "bins": 64,
            "n_fft": 1024,
            "win_length": 400,
            "hop_length": 160,
            "f_min": 60.0,
            "f_max": 7800.0,
            "log": "natural",
            "floor": 1e-8,
        },
        network={"type": "resnet18"},
        dropout=0.4,
        paper="https://arxiv.org/abs/1512.03385",
    ),
    data=Data(seconds=5.0, batch=512, hold_out="split", held_out=("eval",), balanced=True),
    optimizer=Optimizer(learning_rate=5e-4, warmup=10.0, weight_decay=0.05),
    objective=Supervised(task="multilabel", mixup=0.8, augment=Augment(frames=50, bins=8, masks=2)),
    run=Run(epochs=50.0, precision="bfloat16", best="mAP"),
)
