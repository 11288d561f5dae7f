"""Depthwise 7x7 convolution at ConvNeXt-Tiny's four stages, forward and backward: shifted products against XLA's own.

    python benchmarks/depthwise.py [--batch 4] [--dtype float32] [--rounds 15]

Prints medians in milliseconds, the two roads taking turns, and writes `benchmarks/results/depthwise-DEVICE.json`. The
faster road on a device is the one `audax_eqx.layers.conv.depthwise` should take there.
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from audax_eqx.layers import conv

STAGES = {"stage 0": (250, 16, 96), "stage 1": (125, 8, 192), "stage 2": (62, 4, 384), "stage 3": (31, 2, 768)}


def shifts_backward(x, weight, gradient):
    flipped = weight[::-1, ::-1]
    return conv._shifts(gradient, flipped), conv._shifts_weight_gradient(x, gradient, weight)


def grouped_backward(x, weight, gradient):
    return jax.vjp(conv._grouped, x, weight)[1](gradient)


def over_batch(road):
    """The road over a batch; a gradient by the weights is the sum over it."""

    def forward(x, weight, gradient):
        return jax.vmap(road, (0, None))(x, weight)

    def backward(x, weight, gradient):
        dx, dw = jax.vmap(road, (0, None, 0))(x, weight, gradient)
        return dx, jnp.sum(dw, axis=0)

    return jax.jit(backward if "backward" in road.__name__ else forward)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = jax.devices()[0]
    roads = {
        "forward": {"shifts": over_batch(conv._shifts), "grouped": over_batch(conv._grouped)},
        "backward": {"shifts": over_batch(shifts_backward), "grouped": over_batch(grouped_backward)},
    }
    results = {"device": device.device_kind, "jax": jax.__version__, **vars(options)}
    for stage, (frames, bins, channels) in STAGES.items():
        keys = jax.random.split(jax.random.key(0), 3)
        shape = (options.batch, frames, bins, channels)
        x, gradient = (jax.random.normal(key, shape, options.dtype) for key in keys[:2])
        weight = jax.random.normal(keys[2], (7, 7, 1, channels), options.dtype)
        for direction, pair in roads.items():
            times = {name: [] for name in pair}
            for round_ in range(options.rounds + 2):
                for name, run in pair.items():
                    start = time.perf_counter()
                    jax.block_until_ready(run(x, weight, gradient))
                    if round_ >= 2:  # the first rounds compile and warm up
                        times[name].append(1e3 * (time.perf_counter() - start))
            medians = {name: float(np.median(spent)) for name, spent in times.items()}
            results[f"{stage} {direction}"] = medians
            print(
                f"{stage} {direction:9}" + "".join(f"  {name} {ms:9.3f} ms" for name, ms in medians.items()), flush=True
            )
    folder = pathlib.Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    out = folder / f"depthwise-{device.platform}.json"
    out.write_text(json.dumps(results, indent=2) + "\n")
    print(out)


if __name__ == "__main__":
    main()
