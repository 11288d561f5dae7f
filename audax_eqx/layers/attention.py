"""Multi-head self-attention (Vaswani et al., 2017, arXiv:1706.03762).

    output(concatenation over heads of softmax(query key^T / sqrt(size) + gate bias) value)

`size`, the channels of a head, is the width divided by the number of heads. The bias tells how far apart two tokens
are (`relative_bias`), the gate of each token how much that counts (Chi et al., 2022, arXiv:2106.16138):

    gate = a (b scale - 1) + 2,    a, b = sigmoid(sums of four outputs each of a linear map of the head's channels)
"""

import math
from functools import cache
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._portable import by_platform
from .initial import full, split
from .length import Length, within
from .linear import Linear

Bias = Float[Array, "heads tokens tokens"]


class Attention(eqx.Module):
    """Every token attends to all tokens; head `h` has the channels from `h size` on.

    - `bias`: whether query, key and value have a bias; the output always has one.
    - `key_bias`: whether the key has one, too.
    - `gate`: the source of the gates of a `bias` between tokens, which the call then needs: the layer's "input" or its
      "query", both cut into heads; None for no such bias.

    Of an input with a `length`, the tokens behind it are not attended to. Raises ValueError for a width that the heads
    do not divide.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    gate: Linear | None
    gate_scale: Float[Array, " heads"] | None
    width: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)
    gate_source: Literal["input", "query"] | None = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool = True,
        key_bias: bool = True,
        gate: Literal["input", "query"] | None = None,
        key: PRNGKeyArray,
    ):
        _check_heads(width, heads)
        keys = split(key, 5)
        self.query, self.value = (Linear(width, width, bias=bias, key=keys[index]) for index in (0, 2))
        self.key = Linear(width, width, bias=bias and key_bias, key=keys[1])
        self.output = Linear(width, width, key=keys[3])
        self.gate = None if gate is None else Linear(width // heads, 8, key=keys[4])
        self.gate_scale = None if gate is None else full(heads, 1.0)
        self.width, self.heads, self.gate_source = width, heads, gate

    def __call__(
        self, x: Float[Array, "tokens {self.width}"], *, length: Length = None, bias: Bias | None = None
    ) -> Float[Array, "tokens {self.width}"]:
        query, key, value = (linear(x).reshape(len(x), self.heads, -1) for linear in (self.query, self.key, self.value))
        gates = None
        if self.gate is not None and self.gate_scale is not None:
            source = query if self.gate_source == "query" else x.reshape(query.shape)
            sums = jnp.sum(self.gate(source).reshape(*query.shape[:2], 2, 4), axis=-1)
            a, b = jnp.moveaxis(jax.nn.sigmoid(sums), -1, 0)
            gates = (a * (b * jnp.broadcast_to(self.gate_scale, b.shape) - 1) + 2).T
        return self.output(_attend_by_head(query, key, value, bias, gates, length).reshape(x.shape))


class FusedAttention(eqx.Module):
    """`Attention` with one linear map for all three, as timm has it: the query first, then the key, then the value."""

    qkv: Linear
    output: Linear
    width: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, bias: bool = True, key: PRNGKeyArray):
        _check_heads(width, heads)
        keys = split(key, 2)
        self.qkv = Linear(width, 3 * width, bias=bias, key=keys[0])
        self.output = Linear(width, width, key=keys[1])
        self.width, self.heads = width, heads

    def __call__(
        self, x: Float[Array, "tokens {self.width}"], *, length: Length = None, bias: Bias | None = None
    ) -> Float[Array, "tokens {self.width}"]:
        query, key, value = (part.reshape(len(x), self.heads, -1) for part in jnp.split(self.qkv(x), 3, axis=-1))
        return self.output(_attend_by_head(query, key, value, bias, None, length).reshape(x.shape))


def relative_bias(table: Float[Array, "buckets heads"], tokens: int, max_distance: int) -> Bias:
    """The bias of each token's attention to each other by their distance (Raffel et al., 2020, arXiv:1910.10683).

    Half of the buckets are for tokens behind. Of each half one half has a distance each, the other as many steps on a
    logarithmic scale up to `max_distance`, the last for all from there on.
    """
    half = table.shape[0] // 2
    exact = half // 2
    offsets = np.arange(-(tokens - 1), tokens)
    distance = np.abs(offsets)
    # In float32 and in this order, as the references have it: a distance at an edge falls on their side of it.
    steps = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact)) / np.float32(
        math.log(max_distance / exact)
    )
    far = np.minimum(exact + (steps * np.float32(half - exact)).astype(np.int64), half - 1)
    by_offset = table.T[:, np.where(offsets > 0, half, 0) + np.where(distance < exact, distance, far)]
    starts = jnp.arange(tokens - 1, -1, -1, dtype=jnp.int32)  # row i begins with offset -i
    return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(by_offset, start, tokens, 1), out_axes=1)(starts)


def _check_heads(width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"Attention shares its width out to the heads: choose heads that divide {width}, got {heads}.")


def _attend_by_head(
    query: Array, key: Array, value: Array, bias: Array | None, gates: Array | None, length: Length
) -> Array:
    """All heads: query, key and value `tokens heads size`, bias `heads tokens tokens`, gates `heads tokens`."""
    length = None if length is None else jnp.asarray(length, jnp.int32)
    paths = {"cpu": _by_heads, "default": _at_once}
    if bias is None and _cudnn_takes(query.shape, query.dtype):
        paths["cuda"] = _by_cudnn
    return by_platform(query, key, value, bias, gates, length, **paths)


@cache
def _cudnn_takes(shape: tuple[int, int, int], dtype: np.dtype) -> bool:
    """Whether the GPUs of this process have cuDNN's attention for query, key and value like these.

    JAX raises for the dtypes (float32 is one), the sizes and the versions that cuDNN refuses, except for GPUs before
    compute capability 8.
    """
    x = jax.ShapeDtypeStruct(shape, dtype)
    try:
        gpus = jax.local_devices(backend="cuda")
        jax.eval_shape(_by_cudnn, x, x, x)
    except (RuntimeError, ValueError):
        return False
    return all(float(gpu.compute_capability) >= 8 for gpu in gpus)


def _by_cudnn(query, key, value, bias=None, gates=None, length=None) -> Array:
    """All heads by a kernel that keeps no scores, tokens x tokens, neither forward nor backward; without a bias.

    JAX has its gradient for an even number of tokens. To an odd one a token is added, which no other attends to.
    """
    tokens = len(query)
    odd = tokens % 2
    lengths = {}
    if odd or length is not None:
        zero = 0 * query[:1, 0, 0].astype(jnp.int32)  # vmap needs lengths that are mapped as the query is
        end = zero + (tokens if length is None else length)
        lengths = {"query_seq_lengths": zero + tokens, "key_value_seq_lengths": end}
    query, key, value = (jnp.pad(x, ((0, odd), (0, 0), (0, 0))) for x in (query, key, value))
    return jax.nn.dot_product_attention(query, key, value, **lengths, implementation="cudnn")[:tokens]


def _at_once(query, key, value, bias=None, gates=None, length=None) -> Array:
    return jax.vmap(_attend, in_axes=(1, 1, 1, 0, 0, None), out_axes=1)(query, key, value, bias, gates, length)


def _by_heads(query, key, value, bias=None, gates=None, length=None) -> Array:
    """One head after the other: the scores of one, tokens x tokens, stay in cache, those of all do not.

    A block of the Transformer of width 768 then takes three quarters of the time, at 1,214 tokens.
    """
    query, key, value = (jnp.swapaxes(x, 0, 1) for x in (query, key, value))
    heads = (query, key, value, bias, gates)
    return jnp.swapaxes(jax.lax.map(lambda head: _attend(*head, length=length), heads), 0, 1)


def _attend(query, key, value, bias=None, gates=None, length=None) -> Array:
    """One head, `tokens size`: what `jax.nn.dot_product_attention` computes, in float32 between the two products.

    Softmax's division comes last, when there are fewer numbers to divide. The scale is the query's: multiplied with
    large scores it would be rounded unlike their maximum.
    """
    scores = jnp.matmul(query * query.shape[-1] ** -0.5, key.T, preferred_element_type=jnp.float32)
    if bias is not None:
        bias = bias.astype(jnp.float32)
        scores = scores + (bias if gates is None else gates.astype(jnp.float32)[:, None] * bias)
    if length is not None:
        scores = jnp.where(within(len(key), length)[None], scores, -jnp.inf)
    highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))  # for the range of exp; it cancels out
    weights = jnp.exp(scores - highest)
    y = jnp.matmul(weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (y / jnp.sum(weights, axis=-1, keepdims=True)).astype(value.dtype)
