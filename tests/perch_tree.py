"""Perch's golden numbers, and its arrays by the names of Flax."""

import functools
import pathlib

import numpy as np
from golden.perch import NETWORKS, seeded


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "perch.npz") as arrays:
        return dict(arrays)


def tree(name, head, depth=9):
    """A network's arrays by Flax's paths, seeded as golden/perch.py seeds them, with at most `depth` blocks a stage."""
    stem, stages, _, _ = NETWORKS[name]
    arrays = {}

    def add(path, **shapes):
        for leaf, shape in shapes.items():
            kind = "batch_stats" if leaf in ("mean", "var") else "params"
            arrays[f"{kind}/embedding_model/backbone/{path}/{leaf}"] = seeded(f"{path}/{leaf}", shape)

    def conv_norm(conv, norm, shape):
        add(conv, kernel=shape)
        add(norm, **dict.fromkeys(("scale", "bias", "mean", "var"), shape[-1:]))

    conv_norm("Stem_0/Conv_0", "Stem_0/BatchNorm_0", (3, 3, 1, stem))
    inputs, block = stem, 0
    for count, width, kernel, _, expansion in stages:
        for _ in range(min(count, depth)):
            path, inner = f"MBConv_{block}", expansion * inputs
            if expansion > 1:
                conv_norm(f"{path}/ExpandConv", f"{path}/ExpandBatchNorm", (1, 1, inputs, inner))
            conv_norm(f"{path}/DepthwiseConv", f"{path}/DepthwiseBatchNorm", (kernel, kernel, 1, inner))
            for part, shape in (("Reduce", (inner, inputs // 4)), ("Expand", (inputs // 4, inner))):
                add(f"{path}/SqueezeAndExcitation_0/{part}", kernel=shape, bias=shape[1:])
            conv_norm(f"{path}/ProjectConv", f"{path}/ProjectBatchNorm", (1, 1, inner, width))
            inputs, block = width, block + 1
    conv_norm("Head_0/Conv_0", "Head_0/BatchNorm_0", (1, 1, inputs, 4 * inputs))
    heads = {
        "prototypes": {"prototypes": (7, 4 * inputs, 3), "protop_kernel": (7, 3), "bias": (7,)},
        "dense": {"Dense_0/kernel": (4 * inputs, 5), "Dense_0/bias": (5,)},
        "none": {},
    }
    return arrays | {f"params/heads_label/{path}": seeded(path, shape) for path, shape in heads[head].items()}
