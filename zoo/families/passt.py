"""PaSST, "Efficient training of audio Transformers with patchout", Koutini et al., 2022, arXiv:2110.05069.

Weights: https://github.com/kkoutini/PaSST/releases (Apache-2.0), torch files. No repo on the Hub has them, so
`zoo.convert` reads them. The mAP on AudioSet is the publisher's figure:

| release | file | mAP |
|---|---|---|
| v0.0.1-audioset | `passt-s-f128-p16-s10-ap.476-swa.pt` | 0.476 |
| v.0.0.9 | `passt-s-kd-ap.486.pt` | 0.486 |
| v0.0.2-audioset | `passt-s-f128-p16-s16-ap.468.pt` | 0.468 |
| v0.0.3-audioset | `passt-s-f128-stfthop160-p16-s10-ap.473-swa.pt` | 0.473 |
| v0.0.5 | `passt-s-f128-20sec-p16-s10-ap.474-swa.pt`, `passt-s-f128-30sec-p16-s10-ap.473-swa.pt` | 0.474, 0.473 |
"""

import dataclasses
import math
import re
from typing import Any

from .._entry import Checkpoint, Entry
from .._files import line
from .._foreign import Recognition, WeightFile, like
from .._labels import AUDIOSET
from .._limits import BINS, NUMBER, WINDOW
from .._rules import QKV, VIT, Rule, drop, flat, only, under
from .ced import steps

RELEASE = Entry(
    name="passt",
    frontend={"type": "efficientat_log_mel", "sample_rate": 32000, "max_frames": 1000},
    network={"type": "passt"},
    model={"type": "Classifier", "norm": 1e-5},
    classes=527,
    task="multilabel",
    window=10.0,
    license="Apache-2.0",
    source="https://github.com/kkoutini/PaSST",
    paper="https://arxiv.org/abs/2110.05069",
    checkpoint=Checkpoint(
        repo="", table="passt_authors", **AUDIOSET
    ),  # for the labels: no repo of the Hub has the weights
)

RULES = {
    "passt_authors": (
        Rule(r"head_dist\.(weight|bias)", drop),  # unused after the distillation
        Rule(r"head\.0\.(weight|bias)", r"norm.\1"),
        Rule(r"head\.1\.(weight|bias)", r"head.\1"),
        *under(
            "",
            "network.",
            Rule("cls_token", "class_token", flat),
            Rule("dist_token", "distillation_token", flat),
            Rule("new_pos_embed", "token_embedding", only),
            Rule("(time|freq)_new_pos_embed", r"\1_embedding", steps),
            *VIT,
            QKV,
        ),
    )
}


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises the files of the releases, with any classes.

    A head of attention has 64 channels. If 64 does not divide the width, there are 4 heads, unless the owner gives
    another number. The stride over the bins is the one that makes the file's number of patches of the bins (128 unless
    the owner gives another number), and the stride over time equals it. The hop of the frontend is read from a name
    like `stfthop160`.

    Raises ValueError if no stride makes this number of patches, and for sizes that make no sense.
    """
    shapes = file.shapes
    if not {"time_new_pos_embed", "freq_new_pos_embed", "new_pos_embed"} <= shapes.keys():
        return None
    width, times, freqs = shapes["new_pos_embed"][-1], shapes["time_new_pos_embed"][3], shapes["freq_new_pos_embed"][2]
    patch = (shapes["patch_embed.proj.weight"][3], shapes["patch_embed.proj.weight"][2])
    frontend = dict(RELEASE.frontend) | {"bins": file.frontend.get("bins", 128), "hop_length": 320}
    if hop := re.search(r"stfthop(\d+)", file.path.name):
        frontend["hop_length"] = _size(file, "a hop_length", int(hop[1][:20]))
    bins = _size(file, "bins", frontend["bins"], BINS)
    hop_length = _size(file, "a hop_length", file.frontend.get("hop_length", frontend["hop_length"]))
    rate = _size(file, "a sample_rate", file.frontend.get("sample_rate", frontend["sample_rate"]))
    # If several strides fit, the published ones come first: 10, and patches side by side
    strides = (
        each
        for each in (10, patch[1], *range(1, bins + 1))
        if bins // each == freqs == max(bins - patch[1], 0) // each + 1
    )
    stride = file.network.get("stride")
    if stride is None:
        stride = (next(strides, 0),) * 2
    elif not isinstance(stride, tuple) or len(stride) != 2:
        raise ValueError(f"{file.path} takes a stride that is a tuple (frames, bins), got {line(repr(stride))}.")
    else:
        stride = tuple(_size(file, "strides", each) for each in stride)
    if stride[0] < 1:
        raise ValueError(
            f"{file.path} has {freqs} positions over the bins, and no stride of patches of {patch[1]} makes them of "
            f'{bins} bins: give frontend={{"bins": ...}} or network={{"stride": (frames, bins)}} as it was trained.'
        )
    window = math.ceil(2 * times * stride[0] * hop_length / rate) / 2 if file.window is None else file.window
    if not 0 < window <= WINDOW:
        raise ValueError(f"{file.path} takes a window above 0 and up to {WINDOW:.0f} seconds, got {window}.")
    frontend |= {"max_frames": max(round(window * rate / hop_length), 1)}
    entry = like(RELEASE, shapes["head.1.weight"][0])
    if width != 768 or file.count("blocks.{}.") != 12:
        entry = dataclasses.replace(entry, license=None, source=None)  # somebody else trained it
    network = {
        "type": "PaSST",
        "width": width,
        "depth": file.count("blocks.{}."),
        "heads": width // 64 if width % 64 == 0 else 4,
        "grid": (times, freqs),
        "patch": patch,
        "stride": stride,
        "mlp_width": shapes["blocks.0.mlp.fc1.weight"][0],
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
    }
    entry = dataclasses.replace(entry, frontend=frontend, network=network, window=window)
    return Recognition(entry, RULES["passt_authors"])


def _size(file: WeightFile, name: str, value: Any, largest: int = NUMBER) -> int:
    """The value, unchanged, of an option or in a file's name. Raises ValueError for a value that is no size."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise ValueError(f"{file.path} takes {name} from 1 to {largest}, a whole number, got {line(repr(value))}.")
    return value
