"""HTS-AT, "A Hierarchical Token-Semantic Audio Transformer for Sound Classification and Detection", Chen et al., 2022,
arXiv:2202.00874: a Swin Transformer (Liu et al., 2021, arXiv:2103.14030) over a log-mel folded into a square.

    image:  norm of each bin of the log-mel -> stretched to 1024 frames -> four quarters, one above the other
            image[64 q + bin, t] = log-mel[256 q + t, bin]
    tokens: norm(patch), for 64 x 64 patches of 4x4
    block:  x + attention in windows of 8x8(norm(x)), then x + contract(gelu(expand(norm(x))))
            the windows of every other block lie 4 tokens further down and right, and the image's end cuts them
    stage:  blocks; in all stages but the last, then norm of 2x2 tokens -> a linear map to twice the channels
    end:    norm -> mean of all tokens -> projection into the space of sounds and texts

Weights: the audio tower of LAION's CLAP, https://huggingface.co/laion/clap-htsat-unfused (Apache-2.0) and similar
models. They do not contain the paper's token-semantic head.
"""

import functools
from collections.abc import Sequence
from functools import partial

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import Activation, BatchNorm, LayerNorm, Patchify, PatchMerging, Projection, SwinBlock, split_key
from ..layers.initial import split

EPS = 1e-5  # the eps of the norms outside of the blocks


class Stage(eqx.Module):
    """Blocks, and the downsampling to the tokens of the next stage."""

    blocks: tuple[SwinBlock, ...]
    downsample: PatchMerging | None

    def __call__(
        self, x: Float[Array, "rows columns width"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "newrows newcolumns newwidth"]:
        for block, block_key in zip(self.blocks, split_key(key, len(self.blocks)), strict=True):
            x = block(x, key=block_key)
        return x if self.downsample is None else self.downsample(x)


class HTSAT(AbstractNetwork):
    """HTS-AT over `frames bins`; its feature map is in the order of time, by default 32 steps for the whole input.

    - `depths`, `heads`: the number of blocks and of attention heads of each stage.
    - `embedding`: the channels of the first stage.
    - `bins`: the bins of the input.
    - `frames`: the usual number of input frames, in which `positions` are counted. The frames of any input are
      stretched to those of the image, `image * (image // bins)`; an input with more frames than the image raises
      ValueError.
    - `image`, `patch`, `window`: the sides of the square, of a patch in it, and of a window in tokens.
    - `mlp_ratio`: the width of the MLPs divided by that of the tokens.
    - `projection`: the width of a projection of the mean to a vector of length 1; None for no projection.
    - `drop_path`: the rate of the last block; it rises linearly with depth from 0 at the first block.

    `layers` has the tokens and the output of each stage, as in the hidden states of transformers, in the order of time;
    the feature map is the norm of the last output. Raises ValueError for windows that do not divide the tokens of each
    stage.
    """

    input_norm: BatchNorm
    patchify: Patchify
    patch_norm: LayerNorm
    stages: tuple[Stage, ...]
    norm: LayerNorm
    projection: Projection | None
    bins: int = eqx.field(static=True)
    frames: int = eqx.field(static=True)
    image: int = eqx.field(static=True)

    def __init__(
        self,
        depths: Sequence[int],
        heads: Sequence[int],
        embedding: int,
        *,
        bins: int = 64,
        frames: int = 1001,
        image: int = 256,
        patch: int = 4,
        window: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        activation: Activation = "gelu",
        eps: float = 1e-5,
        projection: int | None = None,
        projection_activation: Activation = "relu",
        drop_path: float = 0.0,
        key: PRNGKeyArray,
    ):
        _check(depths, heads, bins, frames, image, patch, window)
        keys = split(key, len(depths) + 2)
        self.input_norm = BatchNorm(bins)
        self.patchify = Patchify(1, embedding, (patch, patch), key=keys[0])
        self.patch_norm = LayerNorm(embedding, eps=EPS)
        rates = iter(np.linspace(0.0, drop_path, sum(depths)).tolist())
        stages = []
        for index, (depth, stage_heads) in enumerate(zip(depths, heads, strict=True)):
            width, tokens = embedding * 2**index, image // patch // 2**index
            *block_keys, merging_key = split(keys[index + 2], depth + 1)
            blocks = tuple(
                SwinBlock(
                    width,
                    stage_heads,
                    window=window,
                    shift=window // 2 if position % 2 and tokens > window else 0,
                    mlp_width=int(mlp_ratio * width),
                    qkv_bias=qkv_bias,
                    eps=eps,
                    activation=activation,
                    drop_path=next(rates),
                    key=block_key,
                )
                for position, block_key in enumerate(block_keys)
            )
            stages.append(Stage(blocks, None if index + 1 == len(depths) else PatchMerging(width, key=merging_key)))
        self.stages = tuple(stages)
        width = embedding * 2 ** (len(depths) - 1)
        self.norm = LayerNorm(width, eps=EPS)
        self.projection = (
            None if projection is None else Projection(width, projection, activation=projection_activation, key=keys[1])
        )
        self.bins, self.frames, self.image = bins, frames, image

    @property
    def width(self) -> int:
        return self.norm.channels if self.projection is None else self.projection.outputs

    @property
    def unit_length(self) -> bool:
        """Whether the embedding has length 1."""
        return self.projection is not None

    @property
    def folds(self) -> int:
        """The number of pieces of time that lie one above the other in the image."""
        return self.image // self.bins

    def layers(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        x, state = self.input_norm(x, state)
        x = _stretch(x, self.image * self.folds)
        image = x.reshape(self.folds, self.image, -1).swapaxes(1, 2).reshape(-1, self.image)
        maps = [self.patch_norm(self.patchify(image[:, :, None]))]
        for stage, stage_key in zip(self.stages, split_key(key, len(self.stages)), strict=True):
            maps.append(stage(maps[-1], key=stage_key))
        return tuple(map(self._unfold, maps)), state

    def features(
        self, x: Float[Array, "frames bins"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "time freq channels"], eqx.nn.State]:
        maps, state = self.layers(x, state, key=key)
        return self.norm(maps[-1]), state

    def pool_map(self, y: Float[Array, "time freq channels"]) -> Float[Array, " {self.width}"]:
        """The embedding of a feature map."""
        mean = jnp.mean(y.astype(jnp.float32), axis=(0, 1)).astype(y.dtype)
        return mean if self.projection is None else self.projection(mean)

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        count = len(self.stages)
        halvings = min(range(count + 1)[layer], count - 1)
        side = self.patchify.weight.shape[1] * 2**halvings  # the length of a step in stretched frames
        centres = np.arange(time) * side + (side - 1) / 2
        return centres * ((self.frames - 1) / (self.image * self.folds - 1))

    def _unfold(self, x: Float[Array, "rows columns width"]) -> Float[Array, "time freq width"]:
        rows, columns, width = x.shape
        return (
            x.reshape(self.folds, rows // self.folds, columns, width)
            .swapaxes(1, 2)
            .reshape(-1, rows // self.folds, width)
        )


def _check(
    depths: Sequence[int], heads: Sequence[int], bins: int, frames: int, image: int, patch: int, window: int
) -> None:
    """Raises ValueError for sizes that do not go together."""
    if not depths or len(depths) != len(heads) or min(bins, frames, image, patch, window, *heads) < 1:
        raise ValueError(
            "HTSAT has stages of as many depths as heads, and sizes of at least 1: got "
            f"depths={depths}, heads={heads}, bins={bins}, frames={frames}, image={image}, patch={patch} and "
            f"window={window}."
        )
    last = patch * 2 ** (len(depths) - 1)
    if image % (last * window) or image % bins or image // last % (image // bins):
        raise ValueError(
            f"HTSAT cuts an image of {image} x {image} into patches of {patch} and these into windows of {window}, in "
            f"{len(depths)} stages, each with half of the tokens of the one before: choose an image of a multiple of "
            f"{last * window} and of the {bins} bins, and pieces of time that divide the last stage's rows of tokens."
        )


def _stretch(x: Float[Array, "size *rest"], size: int) -> Float[Array, "{size} *rest"]:
    """`x` interpolated to `size` rows by cubic splines; the first and the last row stay the same."""
    if len(x) == size:
        return x
    if len(x) > size:
        raise ValueError(f"HTSAT takes at most {size} frames, got {len(x)}: cut the clip.")
    rows, weights = _taps(len(x), size)
    taps = x.astype(jnp.float32)[rows]
    y = jnp.sum(taps * weights.reshape(*weights.shape, *[1] * (x.ndim - 1)), axis=0)
    return y.astype(x.dtype)


@functools.cache
def _taps(rows: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The 4 of `rows` input rows from which each of `size` rows is computed, and their weights (Keys, 1981, with
    a = -0.75).

    The positions are in float32, as in torch: in float64 they would differ by 1e-4 of a row.
    """
    positions = np.arange(size, dtype=np.float32) * (np.float32(rows - 1) / np.float32(size - 1))
    first = np.floor(positions)
    t = positions - first
    a = np.float32(-0.75)

    def near(x):
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x):
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    taps = np.clip(first.astype(np.int32) + np.arange(-1, 3)[:, None], 0, rows - 1)
    return taps.astype(np.int32), np.stack([far(t + 1), near(t), near(1 - t), far(2 - t)]).astype(np.float32)


htsat_tiny = partial(HTSAT, (2, 2, 6, 2), (4, 8, 16, 32), 96)
htsat_base = partial(HTSAT, (2, 2, 12, 2), (4, 8, 16, 32), 128)
