"""A recipe: the model and every number that its training depends on."""

import dataclasses

import zoo


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What `train.loop` needs to train `entry` with supervision.

    Rates are for AdamW, which decays matrices and kernels alone; the learning rate rises linearly over
    `warmup` epochs and falls to zero along a cosine. `mixup` is the alpha of its Beta distribution, 0 for none;
    `mask_frames` and `mask_bins` are SpecAugment's largest masks.
    """

    entry: zoo.Entry
    epochs: int
    batch: int
    learning_rate: float
    warmup: int
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.0
    mask_frames: int = 0
    mask_bins: int = 0
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.warmup < self.epochs:
            raise ValueError(f"A recipe warms up for fewer epochs than it has, got {self.warmup} of {self.epochs}.")
