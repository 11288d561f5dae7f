"""Makes panns.npz: PANNs' networks written anew in torch, small and with seeded weights: maps and embeddings.

python tests/golden/panns.py     (torch 2)

At full size, with the weights of ../shared/oracles/panns_*, these modules give the publisher's outputs. Fields have our
names.
"""

import pathlib

import numpy as np
import torch
from seeded import uniform, values
from torch import nn
from torch.nn import functional

BINS = 37  # halves five times with something left over on the way
SIZES = [101, 70]  # frames


def conv(inputs, outputs, kernel=3, groups=1):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


class Pair(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(x)))


class Shortcut(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.norm = conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.norm(self.conv(x))


class Basic(nn.Module):
    def __init__(self, inputs, outputs, pool):
        super().__init__()
        self.pool = pool
        self.conv1, self.norm1 = conv(inputs, outputs), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut = Shortcut(inputs, outputs) if pool > 1 or inputs != outputs else nn.Identity()

    def forward(self, x):
        x = functional.avg_pool2d(x, self.pool)
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, pool, expansion):
        super().__init__()
        self.pool, self.residual, inner = pool, pool == 1 and inputs == outputs, expansion * inputs
        if expansion > 1:
            self.expand, self.expand_norm = conv(inputs, inner, 1), nn.BatchNorm2d(inner)
        self.depthwise, self.depthwise_norm = conv(inner, inner, 3, inner), nn.BatchNorm2d(inner)
        self.project, self.project_norm = conv(inner, outputs, 1), nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = functional.relu6(self.expand_norm(self.expand(x))) if hasattr(self, "expand") else x
        y = functional.relu6(self.depthwise_norm(functional.avg_pool2d(self.depthwise(y), self.pool)))
        y = self.project_norm(self.project(y))
        return x + y if self.residual else y


class Network(nn.Module):
    def __init__(self, channels, embedding, bins):
        super().__init__()
        self.input_norm, self.embed = nn.BatchNorm1d(bins), nn.Linear(channels, embedding)

    def forward(self, x):
        """The map and the embedding of one example, frames x bins."""
        y = self.features(self.input_norm(x)[None, None])
        profile = y.mean(dim=3)
        embedding = functional.relu(self.embed(profile.amax(dim=2) + profile.mean(dim=2)))
        return y[0].permute(1, 2, 0), embedding[0]


class CNN(Network):
    def __init__(self, widths, pools, embedding, bins=BINS):
        super().__init__(widths[-1], embedding, bins)
        self.pools = pools
        self.blocks = nn.ModuleList(map(Pair, (1, *widths[:-1]), widths))

    def features(self, x):
        for block, pool in zip(self.blocks, self.pools, strict=True):
            x = functional.avg_pool2d(block(x), pool)
        return x


class ResNet(Network):
    def __init__(self, depths, widths, bins=BINS):
        super().__init__(4 * widths[-1], 4 * widths[-1], bins)
        self.stem, self.end, self.stages = Pair(1, widths[0]), Pair(widths[-1], 4 * widths[-1]), nn.ModuleList()
        before = widths[0]
        for depth, width in zip(depths, widths, strict=True):
            first = Basic(before, width, 2 if len(self.stages) else 1)
            self.stages.append(nn.Sequential(first, *(Basic(width, width, 1) for _ in range(depth - 1))))
            before = width

    def features(self, x):
        x = functional.avg_pool2d(self.stem(x), 2)
        for stage in self.stages:
            x = stage(x)
        return self.end(functional.avg_pool2d(x, 2))


class MobileNetV2(Network):
    def __init__(self, depths, widths, embedding, bins=BINS):
        super().__init__(4 * widths[-1], embedding, bins)
        self.stem, self.stem_norm = conv(1, widths[0]), nn.BatchNorm2d(widths[0])
        self.blocks, before = nn.Sequential(), widths[0]
        for depth, width, pool, expansion in zip(
            depths, widths[1:], (1, 2, 2, 2, 2, 1, 1), (1, 6, 6, 6, 6, 6, 6), strict=True
        ):
            for block in range(depth):
                self.blocks.append(Inverted(before, width, 1 if block else pool, expansion))
                before = width
        self.end, self.end_norm = conv(before, 4 * before, 1), nn.BatchNorm2d(4 * before)

    def features(self, x):
        x = functional.relu6(self.stem_norm(functional.avg_pool2d(self.stem(x), 2)))
        return functional.relu6(self.end_norm(self.end(self.blocks(x))))


NETWORKS = {
    "cnn": CNN((4, 6, 8), (2, 2, 1), 5),
    "resnet": ResNet((1, 2, 1, 1), (4, 6, 8, 8)),
    "mobilenet": MobileNetV2((1, 2, 1, 1, 2, 1, 1), (4, 4, 4, 6, 6, 8, 8, 12), 10),
}


def fill(network, source=values):
    """The network with the arrays that `source` has for our names and shapes; 1x1 convolutions are dense layers."""
    for name, tensor in network.state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            continue
        if len(shape) == 4 and shape[2:] == (1, 1):
            array = source(name, shape[:2])[:, :, None, None]
        elif len(shape) == 4:
            array = source(name, (*shape[2:], shape[1], shape[0])).transpose(3, 2, 0, 1)
        else:
            array = source(name, shape)
        tensor.copy_(torch.from_numpy(array.copy()))
    return network.eval()


def main():
    arrays = {}
    for name, network in NETWORKS.items():
        fill(network)
        for frames in SIZES:
            x = torch.from_numpy((2 * uniform("x", (frames, BINS))).astype(np.float32))
            with torch.no_grad():
                features, embedding = network(x)
            arrays[f"{name}/{frames}/features"] = features.contiguous().numpy()
            arrays[f"{name}/{frames}/embedding"] = embedding.numpy()
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
