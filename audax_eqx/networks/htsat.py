"""HTS-AT, "A Hierarchical Token-Semantic Audio Transformer for Sound Classification and Detection", Chen et al., 2022,
arXiv:2202.00874: a Swin Transformer (Liu et al., 2021, arXiv:2103.14030) over a log-mel folded into a square.

    image:  norm(log-mel), each bin by itself -> stretched to 1024 frames -> four quarters, one above the other: 256 x 256
            image[64 q + bin, t] = log-mel[256 q + t, bin]
    tokens: norm(4x4 patches), 64 x 64 of them
    block:  x + attention in windows of 8x8(norm(x)), then x + contract(gelu(expand(norm(x))))
            every other block's windows lie 4 further down and right, with those at the end cut where the image ends
    stage:  blocks, and but for the last the norm of 2x2 tokens -> a linear map to twice the channels
    end:    norm -> mean of all tokens -> projection into the space of sounds and texts

Weights: the audio tower of LAION's CLAP, https://huggingface.co/laion/clap-htsat-unfused (Apache-2.0) and its like. The
paper's token-semantic head is not among them.
"""

import functools
from collections.abc import Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import (
    Activation,
    BatchNorm,
    DropPath,
    LayerNorm,
    Linear,
    Patchify,
    Projection,
    activate,
    split_key,
)
from ..layers.initial import normal, split

EPS = 1e-5  # of the norms outside of the blocks


class WindowAttention(eqx.Module):
    """Attention within each window of `side` x `side` tokens, with a bias by how far apart two tokens are, down and right.

    Two tokens of one window that `parts` has in different parts do not see each other.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    bias: Float[Array, "offsets heads"]
    heads: int = eqx.field(static=True)
    side: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, side: int, *, qkv_bias: bool, key: PRNGKeyArray):
        keys = split(key, 5)
        self.query, self.key, self.value = (Linear(width, width, bias=qkv_bias, key=keys[index]) for index in range(3))
        self.output = Linear(width, width, key=keys[3])
        self.bias = normal(keys[4], ((2 * side - 1) ** 2, heads), 0.02)
        self.heads, self.side = heads, side

    def __call__(
        self, x: Float[Array, "windows tokens width"], separate: np.ndarray | None
    ) -> Float[Array, "windows tokens width"]:
        query, key, value = (linear(x).reshape(*x.shape[:2], self.heads, -1) for linear in (self.query, self.key, self.value))
        query = query * query.shape[-1] ** -0.5
        scores = jnp.einsum("nqhc,nkhc->nhqk", query, key, preferred_element_type=jnp.float32)
        bias = self.bias.astype(jnp.float32)[_offsets(self.side)].transpose(2, 0, 1)
        scores = scores + jnp.broadcast_to(bias, scores.shape)
        if separate is not None:
            scores = scores + jnp.broadcast_to(jnp.where(separate, -100.0, 0.0)[:, None], scores.shape)
        weights = jax.nn.softmax(scores).astype(value.dtype)
        y = jnp.einsum("nhqk,nkhc->nqhc", weights, value)
        return self.output(y.reshape(x.shape))


class SwinBlock(eqx.Module):
    """Attention in windows, then an MLP at each token, on residual branches; windows lie `shift` down and right."""

    attention_norm: LayerNorm
    attention: WindowAttention
    mlp_norm: LayerNorm
    expand: Linear
    contract: Linear
    drop_path: DropPath
    shift: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        window: int,
        shift: int,
        mlp_width: int,
        qkv_bias: bool,
        eps: float,
        activation: Activation,
        drop_path: float,
        key: PRNGKeyArray,
    ):
        keys = split(key, 3)
        self.attention_norm, self.mlp_norm = LayerNorm(width, eps=eps), LayerNorm(width, eps=eps)
        self.attention = WindowAttention(width, heads, window, qkv_bias=qkv_bias, key=keys[0])
        self.expand, self.contract = Linear(width, mlp_width, key=keys[1]), Linear(mlp_width, width, key=keys[2])
        self.drop_path = DropPath(drop_path)
        self.shift, self.activation = shift, activation

    def __call__(
        self, x: Float[Array, "rows columns width"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "rows columns width"]:
        attention_key, mlp_key = split_key(key, 2)
        side, (rows, columns, width) = self.attention.side, x.shape
        y = jnp.roll(self.attention_norm(x), (-self.shift, -self.shift), (0, 1)) if self.shift else self.attention_norm(x)
        y = y.reshape(rows // side, side, columns // side, side, width).swapaxes(1, 2).reshape(-1, side * side, width)
        y = self.attention(y, _separate(rows, columns, side, self.shift) if self.shift else None)
        y = y.reshape(rows // side, columns // side, side, side, width).swapaxes(1, 2).reshape(x.shape)
        y = jnp.roll(y, (self.shift, self.shift), (0, 1)) if self.shift else y
        x = x + self.drop_path(y, key=attention_key)
        y = self.contract(activate(self.expand(self.mlp_norm(x)), self.activation))
        return x + self.drop_path(y, key=mlp_key)


class PatchMerging(eqx.Module):
    """A linear map of the norm of 2x2 tokens to twice the channels: upper left, lower left, upper right, lower right."""

    norm: LayerNorm
    reduction: Linear

    def __init__(self, width: int, *, key: PRNGKeyArray):
        self.norm = LayerNorm(4 * width, eps=EPS)
        self.reduction = Linear(4 * width, 2 * width, bias=False, key=key)

    def __call__(self, x: Float[Array, "rows columns width"]) -> Float[Array, "newrows newcolumns newwidth"]:
        rows, columns, width = x.shape
        tokens = x.reshape(rows // 2, 2, columns // 2, 2, width).transpose(0, 2, 3, 1, 4)
        return self.reduction(self.norm(tokens.reshape(rows // 2, columns // 2, 4 * width)))


class Stage(eqx.Module):
    """Blocks, and what makes the next stage's tokens of theirs."""

    blocks: tuple[SwinBlock, ...]
    downsample: PatchMerging | None

    def __call__(
        self, x: Float[Array, "rows columns width"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "newrows newcolumns newwidth"]:
        for block, block_key in zip(self.blocks, split_key(key, len(self.blocks)), strict=True):
            x = block(x, key=block_key)
        return x if self.downsample is None else self.downsample(x)


class HTSAT(AbstractNetwork):
    """HTS-AT over `frames bins`; its feature map is in the order of time, 32 steps of the whole input at the default.

    - `depths`, `heads`: of the stages, blocks and heads of their attention; `embedding`, the channels of the first.
    - `frames`: how many there are by which `positions` counts. Fewer or more are stretched to as many as the image
      takes, `image * (image // bins)`; still more raise ValueError.
    - `image`, `patch`, `window`: the sides of the square, of a patch in it, and of a window in tokens.
    - `mlp_ratio`: the MLPs' width by that of the tokens.
    - `projection`: the width behind a projection of the mean, of length 1; None for none.
    - `drop_path`: the rate at the last block; it rises linearly with depth from 0 at the first.

    `layers` has the tokens and what each stage makes of them, as transformers' hidden states, in the order of time; the
    feature map is the norm of the last. Raises ValueError for windows that do not divide the tokens of each stage.
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
                    shift=window // 2 if place % 2 and tokens > window else 0,
                    mlp_width=int(mlp_ratio * width),
                    qkv_bias=qkv_bias,
                    eps=eps,
                    activation=activation,
                    drop_path=next(rates),
                    key=block_key,
                )
                for place, block_key in enumerate(block_keys)
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
        """Whether its embedding has length 1."""
        return self.projection is not None

    @property
    def folds(self) -> int:
        """The pieces of time that lie one above the other in the image."""
        return self.image // self.bins

    def layers(
        self, x: Float[Array, "frames {self.bins}"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Maps, eqx.nn.State]:
        x, state = self.input_norm(x, state)
        x = _stretched(x, self.image * self.folds)
        x = _stretched(x.T, self.image // self.folds).T
        image = x.reshape(self.folds, self.image, -1).swapaxes(1, 2).reshape(-1, self.image)
        maps = [self.patch_norm(self.patchify(image[:, :, None]))]
        for stage, stage_key in zip(self.stages, split_key(key, len(self.stages)), strict=True):
            maps.append(stage(maps[-1], key=stage_key))
        return tuple(map(self._unfolded, maps)), state

    def features(
        self, x: Float[Array, "frames {self.bins}"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "time freq channels"], eqx.nn.State]:
        maps, state = self.layers(x, state, key=key)
        return self.norm(maps[-1]), state

    def __call__(
        self, x: Float[Array, "frames {self.bins}"], state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, " {self.width}"], eqx.nn.State]:
        y, state = self.features(x, state, key=key)
        return self.pool_map(y), state

    def pool_map(self, y: Float[Array, "time freq channels"]) -> Float[Array, " {self.width}"]:
        """The embedding of a feature map."""
        mean = jnp.mean(y.astype(jnp.float32), axis=(0, 1)).astype(y.dtype)
        return mean if self.projection is None else self.projection(mean)

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        count = len(self.stages)
        halvings = min(range(count + 1)[layer], count - 1)
        side = self.patchify.weight.shape[1] * 2**halvings  # of a step, in stretched frames
        centres = np.arange(time) * side + (side - 1) / 2
        return centres * ((self.frames - 1) / (self.image * self.folds - 1))

    def _unfolded(self, x: Float[Array, "rows columns width"]) -> Float[Array, "time freq width"]:
        rows, columns, width = x.shape
        return x.reshape(self.folds, rows // self.folds, columns, width).swapaxes(1, 2).reshape(-1, rows // self.folds, width)


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
    folds = image // bins
    if folds < 1 or image % (last * window) or image // last % folds or image % folds:
        raise ValueError(
            f"HTSAT cuts an image of {image} x {image} into patches of {patch} and these into windows of {window}, in "
            f"{len(depths)} stages, each with half of the tokens of the one before: choose an image of a multiple of "
            f"{last * window}, and bins, {bins} here, whose pieces of time divide the last stage's tokens."
        )


def _stretched(x: Float[Array, "size *rest"], size: int) -> Float[Array, "{size} *rest"]:
    """`x` interpolated to `size` rows by cubic splines, its first and last rows in their places."""
    if len(x) == size:
        return x
    if len(x) > size:
        raise ValueError(f"HTSAT takes at most {size} frames, got {len(x)}: cut the clip.")
    places, weights = _taps(len(x), size)
    y = sum(x.astype(jnp.float32)[place] * weight[:, None] for place, weight in zip(places, weights, strict=True))
    return y.astype(x.dtype)


@functools.cache
def _taps(rows: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `size` rows the 4 rows of `rows` that it is made of, and their weights (Keys, 1981, with a = -0.75).

    In float32, as torch has it: the places in between would be others by 1e-4 of a row.
    """
    positions = np.arange(size, dtype=np.float32) * (np.float32(rows - 1) / np.float32(size - 1))
    first = np.floor(positions)
    t = positions - first
    a = np.float32(-0.75)

    def near(x):
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x):
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    places = np.clip(first.astype(np.int32) + np.arange(-1, 3)[:, None], 0, rows - 1)
    return places.astype(np.int32), np.stack([far(t + 1), near(t), near(1 - t), far(2 - t)]).astype(np.float32)


@functools.cache
def _offsets(side: int) -> np.ndarray:
    """Of each pair of tokens in a window the row of the table of biases for how far apart they are."""
    places = np.stack(np.divmod(np.arange(side * side), side))
    down, right = places[:, :, None] - places[:, None] + side - 1
    return (down * (2 * side - 1) + right).astype(np.int32)


@functools.cache
def _separate(rows: int, columns: int, side: int, shift: int) -> np.ndarray:
    """Of each window, shifted beyond the image's end, the pairs of tokens that lie at different ends of the image."""

    def parts(size: int) -> np.ndarray:
        places = np.arange(size)
        return (places >= size - side).astype(int) + (places >= size - shift)

    labels = 3 * parts(rows)[:, None] + parts(columns)
    labels = labels.reshape(rows // side, side, columns // side, side).swapaxes(1, 2).reshape(-1, side * side)
    return labels[:, :, None] != labels[:, None]


htsat_tiny = partial(HTSAT, (2, 2, 6, 2), (4, 8, 16, 32), 96)
htsat_base = partial(HTSAT, (2, 2, 12, 2), (4, 8, 16, 32), 128)
