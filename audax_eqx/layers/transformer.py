"""The Transformer's block with its norms in front (Xiong et al., 2020, arXiv:2002.04745), as in ViT (arXiv:2010.11929).

x + attention(norm(x)), then x + contract(activation(expand(norm(x))))
"""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .attention import Attention, FusedAttention
from .drop import DropPath, split_key
from .initial import split
from .linear import Linear
from .norm import LayerNorm

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


class TransformerBlock(eqx.Module):
    """Attention over all tokens, then an MLP at each token, on residual branches that begin with a LayerNorm.

    - `qkv_bias`: whether query, key and value have a bias.
    - `fused`: whether these three are one linear map, as some checkpoints have them.
    - `eps`: of both LayerNorms.
    - `activation`: "gelu" (exact), "gelu_tanh", "relu" or "silu", in the MLP.
    - `drop_path`: the rate at which each branch is dropped in training.
    """

    attention_norm: LayerNorm
    attention: Attention | FusedAttention
    mlp_norm: LayerNorm
    expand: Linear
    contract: Linear
    drop_path: DropPath
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        *,
        qkv_bias: bool = True,
        fused: bool = False,
        eps: float = 1e-6,
        activation: Activation = "gelu",
        drop_path: float = 0.0,
        key: PRNGKeyArray,
    ):
        keys = split(key, 3)
        self.attention_norm = LayerNorm(width, eps=eps)
        self.attention = (FusedAttention if fused else Attention)(width, heads, bias=qkv_bias, key=keys[0])
        self.mlp_norm = LayerNorm(width, eps=eps)
        self.expand = Linear(width, mlp_width, key=keys[1])
        self.contract = Linear(mlp_width, width, key=keys[2])
        self.drop_path = DropPath(drop_path)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "tokens width"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "tokens width"]:
        attention_key, mlp_key = split_key(key, 2)
        x = x + self.drop_path(self.attention(self.attention_norm(x)), key=attention_key)
        y = self.expand(self.mlp_norm(x))
        match self.activation:
            case "gelu":
                y = jax.nn.gelu(y, approximate=False)
            case "gelu_tanh":
                y = jax.nn.gelu(y, approximate=True)
            case "relu":
                y = jax.nn.relu(y)
            case "silu":
                y = jax.nn.silu(y)
        return x + self.drop_path(self.contract(y), key=mlp_key)


def transformer_blocks(
    width: int,
    heads: int,
    *,
    mlp_width: int | None = None,
    drop_path: float = 0.0,
    keys: Sequence[PRNGKeyArray],
    **options,
) -> tuple[TransformerBlock, ...]:
    """A Transformer's blocks, one for each of `keys`; `options` are `TransformerBlock`'s.

    `mlp_width` is 4 times the width unless given. `drop_path` is the rate of the last block; it rises linearly with
    depth from 0 at the first.
    """
    rates = np.linspace(0.0, drop_path, len(keys)).tolist()
    inner = 4 * width if mlp_width is None else mlp_width
    return tuple(
        TransformerBlock(width, heads, inner, drop_path=rate, key=block_key, **options)
        for rate, block_key in zip(rates, keys, strict=True)
    )
