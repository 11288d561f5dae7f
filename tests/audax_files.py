"""Checkpoints in audax's own layout, with seeded arrays."""

import msgpack
import numpy as np

NARROW = (8, 8, 8, 16, 24, 32, 40, 48)  # of an EfficientNet


def dense(path, *shape, bias=False):
    return {f"{path}/kernel": shape} | ({f"{path}/bias": shape[-1:]} if bias else {})


def norm(path, width, statistics=True):
    return {f"{path}/{leaf}": (width,) for leaf in ("scale", "bias", *(("mean", "var") if statistics else ()))}


def convnext(depths, widths):
    shapes = dense("encoder/Conv_0", 4, 4, 1, widths[0], bias=True) | norm("encoder/LayerNorm_0", widths[0], False)
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        path = f"encoder/ConvNeXtStage_{stage}"
        if stage:
            shapes |= norm(f"{path}/LayerNorm_0", widths[stage - 1], False)
            shapes |= dense(f"{path}/Conv_0", 2, 2, widths[stage - 1], width, bias=True)
        for block in range(depth):
            inner = f"{path}/ConvNeXtBlock_{block}"
            shapes |= dense(f"{inner}/Conv_0", 7, 7, 1, width, bias=True) | norm(f"{inner}/LayerNorm_0", width, False)
            shapes |= dense(f"{inner}/Mlp_0/Dense_0", width, 4 * width, bias=True)
            shapes |= dense(f"{inner}/Mlp_0/Dense_1", 4 * width, width, bias=True) | {f"{inner}/gamma": (width,)}
    return shapes


def resnet(depths, width, bottleneck):
    shapes = dense("encoder/conv_init", 7, 7, 1, width) | norm("encoder/bn_init", width)
    inputs, index = width, 0
    for stage, depth in enumerate(depths):
        inner = width * 2**stage
        outputs = 4 * inner if bottleneck else inner
        kernels = [(1, 1, inner), (3, 3, inner), (1, 1, outputs)] if bottleneck else [(3, 3, inner), (3, 3, outputs)]
        for block in range(depth):
            path = f"encoder/{'Bottleneck' if bottleneck else ''}ResNetBlock_{index}"
            before = inputs
            for number, (height, freq, after) in enumerate(kernels):
                shapes |= dense(f"{path}/Conv_{number}", height, freq, before, after)
                shapes |= norm(f"{path}/BatchNorm_{number}", after)
                before = after
            if inputs != outputs or (stage and block == 0):
                shapes |= dense(f"{path}/conv_proj", 1, 1, inputs, outputs) | norm(f"{path}/norm_proj", outputs)
            inputs, index = outputs, index + 1
    return shapes


def conv_norm(path, *shape):
    return dense(f"{path}/Conv_0", *shape) | norm(f"{path}/BatchNorm_0", shape[-1])


def efficientnet(depths, widths):
    shapes = conv_norm("encoder/ConvNormActivation_0", 3, 3, 1, widths[0])
    inputs, index = widths[0], 0
    for depth, outputs, kernel, expansion in zip(
        depths, widths[1:], (3, 3, 5, 3, 5, 5, 3), (1, 6, 6, 6, 6, 6, 6), strict=True
    ):
        for _ in range(depth):
            path, inner = f"encoder/MBConv_{index}", expansion * inputs
            layers = [(1, 1, inputs, inner)] if expansion > 1 else []
            layers += [(kernel, kernel, 1, inner), (1, 1, inner, outputs)]
            for number, shape in enumerate(layers):
                shapes |= conv_norm(f"{path}/ConvNormActivation_{number}", *shape)
            inner_width = max(1, inputs // 4)
            shapes |= dense(f"{path}/SqueezeAndExcitation_0/reduce", 1, 1, inner, inner_width)
            shapes |= dense(f"{path}/SqueezeAndExcitation_0/expand", 1, 1, inner_width, inner)
            inputs, index = outputs, index + 1
    return shapes | conv_norm("encoder/ConvNormActivation_1", 1, 1, widths[-1], 4 * widths[-1])


def leaf(bins):
    per_bin = {f"frontend/compression/{name}": (bins,) for name in ("alpha", "delta", "root")}
    return per_bin | {
        "frontend/compression/ExponentialMovingAverage_0/smooth": (bins,),
        "frontend/complex_conv/gabor_kernel": (bins, 2),
        "frontend/pooling/kernel": (1, 1, bins, 1),
    }


def sincnet(bins):
    return {"frontend/complex_conv/sinc_kernel": (bins, 2)} | norm("frontend/compression", bins, False)


def classifier(inputs, classes):
    return dense("fc", inputs, classes, bias=True)


def contrastive(inputs, width, bilinear):
    shapes = dense("embedding_fc", inputs, width)
    if bilinear:
        shapes |= norm("bilinear_layernorm", width, False)
        shapes |= {"similarity_layer/bilinear_product_weight": (width, width)}
    return shapes


def seed(shapes, dtype=np.float32):
    """Numbers that tell each array from all others."""
    generator = np.random.default_rng(0)
    arrays = {name: generator.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    for name, array in arrays.items():  # so that no output is NaN, which would not be saved
        if name.endswith("/var"):
            np.abs(array, out=array)
        elif name.endswith("/kernel"):
            array /= np.sqrt(array[..., 0].size)
    return arrays


def pack(array):
    """Flax's extension type."""
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def nest(arrays):
    tree = {}
    for name, array in arrays.items():
        *branches, leaf = name.split("/")
        branch = tree
        for each in branches:
            branch = branch.setdefault(each, {})
        branch[leaf] = pack(array)
    return tree


def write_checkpoint(path, arrays, frozen=()):
    """A train state; what begins with one of `frozen` goes to the frozen parameters."""
    statistics = {name for name in arrays if name.endswith(("/mean", "/var"))}
    still = {name for name in arrays if name.startswith(tuple(frozen))} - statistics

    def part(names):
        return nest({name: array for name, array in arrays.items() if name in names})

    state = {
        "step": 1234,
        "batch_stats": part(statistics),
        "dynamic_scale": None,
        "params": part(arrays.keys() - statistics - still),
        "frozen_params": part(still),
        "aux_rng_keys": {"dropout": pack(np.zeros(2, np.uint32))},
        "opt_state": {"0": {"count": pack(np.int32(7)), "mu": part(arrays.keys() - statistics - still)}},
    }
    path.write_bytes(msgpack.packb(state))
    return path


def tiny_arrays(**changes):
    """A small checkpoint's arrays; None takes one away."""
    shapes = convnext((1, 1, 1, 1), (4, 4, 8, 8)) | convnext((1, 1, 1, 1), (4, 8, 12, 16)) | classifier(16, 3)
    arrays = seed(shapes) | changes
    return {name: array for name, array in arrays.items() if array is not None}
