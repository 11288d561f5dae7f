"""The block of a Swin Transformer (Liu et al., 2021, arXiv:2103.14030), and the downsampling between its stages.

    block:    x + attention in windows(norm(x)), then x + contract(activation(expand(norm(x))))
    windows:  side x side tokens; shifted windows lie `shift` tokens further down and right, and the map's end cuts them
    between:  linear(norm(2x2 tokens))

Channels last: a map is `rows columns width`.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .drop import DropPath, split_key
from .initial import normal, split
from .linear import Linear
from .norm import LayerNorm
from .transformer import Activation, activate


class WindowAttention(eqx.Module):
    """Attention within each window of `side` x `side` tokens, with a bias by the distance of two tokens.

    `separate` marks the pairs of tokens of each window that do not attend to each other.
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
        query, key, value = (
            linear(x).reshape(*x.shape[:2], self.heads, -1) for linear in (self.query, self.key, self.value)
        )
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
    """Attention in windows, shifted by `shift`, then an MLP at each token, both on residual branches."""

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
        y = (
            jnp.roll(self.attention_norm(x), (-self.shift, -self.shift), (0, 1))
            if self.shift
            else self.attention_norm(x)
        )
        y = y.reshape(rows // side, side, columns // side, side, width).swapaxes(1, 2).reshape(-1, side * side, width)
        y = self.attention(y, _separate(rows, columns, side, self.shift) if self.shift else None)
        y = y.reshape(rows // side, columns // side, side, side, width).swapaxes(1, 2).reshape(x.shape)
        y = jnp.roll(y, (self.shift, self.shift), (0, 1)) if self.shift else y
        x = x + self.drop_path(y, key=attention_key)
        y = self.contract(activate(self.expand(self.mlp_norm(x)), self.activation))
        return x + self.drop_path(y, key=mlp_key)


class PatchMerging(eqx.Module):
    """A linear map of the normalised 2x2 tokens, taken column by column, to twice the channels."""

    norm: LayerNorm
    reduction: Linear

    def __init__(self, width: int, *, eps: float = 1e-5, key: PRNGKeyArray):
        self.norm = LayerNorm(4 * width, eps=eps)
        self.reduction = Linear(4 * width, 2 * width, bias=False, key=key)

    def __call__(self, x: Float[Array, "rows columns width"]) -> Float[Array, "newrows newcolumns newwidth"]:
        rows, columns, width = x.shape
        tokens = x.reshape(rows // 2, 2, columns // 2, 2, width).transpose(0, 2, 3, 1, 4)
        return self.reduction(self.norm(tokens.reshape(rows // 2, columns // 2, 4 * width)))


@functools.cache
def _offsets(side: int) -> np.ndarray:
    """The row of the table of biases for each pair of tokens in a window, which depends on their distance."""
    positions = np.stack(np.divmod(np.arange(side * side), side))
    down, right = positions[:, :, None] - positions[:, None] + side - 1
    return (down * (2 * side - 1) + right).astype(np.int32)


@functools.cache
def _separate(rows: int, columns: int, side: int, shift: int) -> np.ndarray:
    """The pairs of tokens in each shifted window that come from opposite ends of the image."""

    def label_parts(size: int) -> np.ndarray:
        positions = np.arange(size)
        return (positions >= size - side).astype(int) + (positions >= size - shift)

    labels = 3 * label_parts(rows)[:, None] + label_parts(columns)
    labels = labels.reshape(rows // side, side, columns // side, side).swapaxes(1, 2).reshape(-1, side * side)
    return labels[:, :, None] != labels[:, None]
