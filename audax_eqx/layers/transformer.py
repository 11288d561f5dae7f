"""The block of a Transformer. Its norms come first (Xiong et al., 2020, arXiv:2002.04745), as in ViT
(arXiv:2010.11929), or last, as in the first Transformer (Vaswani et al., 2017, arXiv:1706.03762).

    first:  x + attention(norm(x)), then x + mlp(norm(x)),    mlp(x) = contract(activation(expand(x)))
    last:   norm(scale x + attention(x)), then norm(scale x + mlp(x))

The scale is 1, or larger in deep networks (Wang et al., 2022, arXiv:2203.00555).
"""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .attention import Attention, Bias, FusedAttention
from .drop import DropPath, split_key
from .initial import split
from .length import Length
from .linear import Linear
from .norm import LayerNorm

Activation = Literal["gelu", "gelu_tanh", "relu", "relu6", "silu", "hardswish"]


def activate(x: Float[Array, "*shape"], activation: Activation) -> Float[Array, "*shape"]:
    """The activation function of this name; "gelu" is the exact one."""
    match activation:
        case "gelu":
            return _gelu(x)
        case "gelu_tanh":
            return jax.nn.gelu(x, approximate=True)
        case "relu":
            return jax.nn.relu(x)
        case "relu6":
            return jax.nn.relu6(x)
        case "silu":
            return _silu(x)
        case "hardswish":
            return jax.nn.hard_swish(x)


@jax.checkpoint  # the gradient computes its parts anew from `x`, which is faster than storing them
def _gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))  # on CPU this takes half the time of `jax.nn.gelu`


@jax.checkpoint
def _silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jax.nn.silu(x)


class TransformerBlock(eqx.Module):
    """Attention over all tokens, then an MLP at each token, both on residual branches.

    - `norm_first`: whether each branch begins with a LayerNorm; otherwise the LayerNorm follows the sum.
    - `qkv_bias`: whether query, key and value have a bias.
    - `key_bias`: whether the key has a bias, if `qkv_bias`.
    - `gate`: the source of the gates of a bias between tokens, as in `Attention`.
    - `fused`: whether query, key and value are one linear map, as in some checkpoints.
    - `eps`: the eps of both LayerNorms.
    - `activation`: "gelu" (exact), "gelu_tanh", "relu" or "silu", in the MLP.
    - `residual_scale`: the factor of the input that is added to each branch.
    - `drop_path`: the rate at which each branch is dropped in training.
    """

    attention_norm: LayerNorm
    attention: Attention | FusedAttention
    mlp_norm: LayerNorm
    expand: Linear
    contract: Linear
    drop_path: DropPath
    activation: Activation = eqx.field(static=True)
    norm_first: bool = eqx.field(static=True)
    residual_scale: float = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        *,
        norm_first: bool = True,
        qkv_bias: bool = True,
        key_bias: bool = True,
        gate: Literal["input", "query"] | None = None,
        fused: bool = False,
        eps: float = 1e-6,
        activation: Activation = "gelu",
        residual_scale: float = 1.0,
        drop_path: float = 0.0,
        key: PRNGKeyArray,
    ):
        keys = split(key, 3)
        self.attention_norm = LayerNorm(width, eps=eps)
        if fused:
            self.attention = FusedAttention(width, heads, bias=qkv_bias, key=keys[0])
        else:
            self.attention = Attention(width, heads, bias=qkv_bias, key_bias=key_bias, gate=gate, key=keys[0])
        self.mlp_norm = LayerNorm(width, eps=eps)
        self.expand = Linear(width, mlp_width, key=keys[1])
        self.contract = Linear(mlp_width, width, key=keys[2])
        self.drop_path = DropPath(drop_path)
        self.activation, self.norm_first, self.residual_scale = activation, norm_first, residual_scale

    def __call__(
        self,
        x: Float[Array, "tokens width"],
        *,
        length: Length = None,
        bias: Bias | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens width"]:
        attention_key, mlp_key = split_key(key, 2)
        y = self.attention(self.attention_norm(x) if self.norm_first else x, length=length, bias=bias)
        x = self._scale_residual(x) + self.drop_path(y, key=attention_key)
        x = x if self.norm_first else self.attention_norm(x)
        y = self.expand(self.mlp_norm(x) if self.norm_first else x)
        x = self._scale_residual(x) + self.drop_path(self.contract(activate(y, self.activation)), key=mlp_key)
        return x if self.norm_first else self.mlp_norm(x)

    def _scale_residual(self, x: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        return x if self.residual_scale == 1.0 else self.residual_scale * x


def transformer_blocks(
    width: int,
    heads: int,
    *,
    mlp_width: int | None = None,
    drop_path: float = 0.0,
    keys: Sequence[PRNGKeyArray],
    **options,
) -> tuple[TransformerBlock, ...]:
    """The blocks of a Transformer, one for each of `keys`; `options` are those of `TransformerBlock`.

    `mlp_width` None is 4 times the width. `drop_path` is the rate of the last block; it rises linearly with
    depth from 0 at the first.
    """
    rates = np.linspace(0.0, drop_path, len(keys)).tolist()
    inner = 4 * width if mlp_width is None else mlp_width
    return tuple(
        TransformerBlock(width, heads, inner, drop_path=rate, key=block_key, **options)
        for rate, block_key in zip(rates, keys, strict=True)
    )
