"""ESC-10: ten environmental sounds, 5 s each (Piczak, ACM Multimedia 2015, doi:10.1145/2733373.2806390).

Data: https://github.com/karolpiczak/ESC-50 (the clips marked ESC-10), listed in a `manifest.csv` of
`files,labels,fold`. Makes the packaged `convnext_esc10`:

    audax-train esc10 path/to/esc10 zoo/weights/convnext_esc10

The log-mel floor of -50 dB hides the digital silence that many clips are filled up with.
"""

import zoo

from ..recipe import Recipe

entry = zoo.Entry(
    name="convnext_esc10",
    frontend={
        "type": "LogMel",
        "sample_rate": 32000,
        "bins": 64,
        "n_fft": 1024,
        "hop_length": 640,
        "f_min": 50.0,
        "f_max": 14000.0,
        "mel_scale": "slaney",
        "norm": "slaney",
        "floor": 1e-5,
    },
    network={
        "type": "ConvNeXt",
        "depths": (1, 1, 2, 1),
        "widths": (24, 48, 96, 192),
        "input_norm": 64,
        "layer_scale": 1.0,
        "pool": "mean_max",
    },
    classes=10,
    task="multiclass",
    window=5.0,
    license="Apache-2.0",
    source="trained by this project on https://github.com/karolpiczak/ESC-50",
    paper="https://arxiv.org/abs/2201.03545",
)

recipe = Recipe(
    entry=entry,
    epochs=120,
    batch=16,
    learning_rate=3e-3,
    warmup=5,
    mixup=0.5,
    mask_frames=25,
    mask_bins=8,
)
