"""Depthwise convolution, forward and backward, in two ways: as a sum of shifted products, and by XLA's own grouped
convolution. The shapes are those of ConvNeXt-Tiny's four stages, whose kernels are 7 x 7, and of EfficientNet-B0's
layers with strides.

    python benchmarks/depthwise.py [--batch 4] [--dtype float32] [--rounds 15]

It prints medians in milliseconds over rounds in which the ways take turns, and writes
`benchmarks/results/depthwise-DEVICE.json`. `audax_eqx.layers.depthwise.depthwise` should take the faster way on each
device.
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np

from audax_eqx.layers import depthwise

STAGES = {  # frames, bins, channels; kernel; stride
    "ConvNeXt-Tiny stage 0": ((250, 16, 96), 7, 1),
    "ConvNeXt-Tiny stage 1": ((125, 8, 192), 7, 1),
    "ConvNeXt-Tiny stage 2": ((62, 4, 384), 7, 1),
    "ConvNeXt-Tiny stage 3": ((31, 2, 768), 7, 1),
    "EfficientNet-B0 stage 1": ((501, 32, 96), 3, 2),
    "EfficientNet-B0 stage 2": ((251, 16, 144), 5, 2),
    "EfficientNet-B0 stage 3": ((126, 8, 240), 3, 2),
    "EfficientNet-B0 stage 5": ((63, 4, 672), 5, 2),
}


def ways(kernel, stride):
    """The jitted functions of both ways, by direction and name. They take a batch, and pad it as torch does."""
    options = ((stride, stride), ((kernel // 2, kernel // 2), (kernel // 2, kernel // 2)))

    def sum_shifts(x, weight, gradient):
        return depthwise._sum_shifts(x, weight, options)

    def convolve_groups(x, weight, gradient):
        return depthwise._convolve(x, weight, options)

    def sum_shifts_backward(x, weight, gradient):
        return (
            depthwise._shifts_input_gradient(gradient, weight, x.shape, options),
            depthwise._shifts_weight_gradient(x, gradient, weight.shape, options),
        )

    def convolve_groups_backward(x, weight, gradient):
        return jax.vjp(lambda x, weight: convolve_groups(x, weight, gradient), x, weight)[1](gradient)

    return {
        "forward": {"shifts": jax.jit(sum_shifts), "grouped": jax.jit(convolve_groups)},
        "backward": {"shifts": jax.jit(sum_shifts_backward), "grouped": jax.jit(convolve_groups_backward)},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = jax.devices()[0]
    results = {"device": device.device_kind, "jax": jax.__version__, **vars(options)}
    for stage, ((frames, bins, channels), kernel, stride) in STAGES.items():
        keys = jax.random.split(jax.random.key(0), 3)
        shapes = ((size, -(-size // stride)) for size in (frames, bins))
        inputs, outputs = ((options.batch, *size, channels) for size in zip(*shapes, strict=True))
        x, gradient = (jax.random.normal(*pair, options.dtype) for pair in zip(keys, (inputs, outputs), strict=False))
        weight = jax.random.normal(keys[2], (kernel, kernel, 1, channels), options.dtype)
        for direction, pair in ways(kernel, stride).items():
            times = {name: [] for name in pair}
            for round_ in range(options.rounds + 2):
                for name, run in pair.items():
                    start = time.perf_counter()
                    jax.block_until_ready(run(x, weight, gradient))
                    if round_ >= 2:  # the first rounds compile and warm up
                        times[name].append(1e3 * (time.perf_counter() - start))
            medians = {name: float(np.median(values)) for name, values in times.items()}
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
