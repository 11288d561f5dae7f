"""RoBERTa, "A Robustly Optimized BERT Pretraining Approach", Liu et al., 2019, arXiv:1907.11692: a Transformer over the
tokens of a text, the text tower of LAION's CLAP.

    tokens:  norm(embedding of the word + of its position + of the type 0); positions count the tokens but padding
    block:   norm(x + attention(x)), then norm(x + contract(gelu(expand(x))))
    end:     tanh(linear(first token)) -> projection into the space of sounds and texts

Weights: those of transformers' `ClapModel`, for example https://huggingface.co/laion/clap-htsat-unfused (Apache-2.0).
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..layers import Activation, LayerNorm, Length, Linear, Projection, TransformerBlock, transformer_blocks
from ..layers.initial import normal, split


class RoBERTa(eqx.Module):
    """Maps the tokens of one text to `width` numbers.

    It is no `AbstractNetwork`, because its input is no sound. `text(tokens, length=...)` gives the result of the first
    `length` tokens alone.

    - `hidden`: the width of the tokens.
    - `words`, `positions`, `types`: the sizes of the tables of embeddings.
    - `padding`: the number of the token for padding. Positions begin behind this number, so that a text has at most
      `most_tokens` tokens.
    - `mlp_width`: the width of the MLPs; None for 4 times `hidden`.
    - `projection`: the width of a projection to a vector of length 1; None for no projection, and then the width is
      `hidden`.

    Raises ValueError for a `hidden` that the heads do not divide, for too few positions, and for too many tokens.
    """

    word_embedding: Float[Array, "words hidden"]
    position_embedding: Float[Array, "positions hidden"]
    type_embedding: Float[Array, "types hidden"]
    norm: LayerNorm
    blocks: tuple[TransformerBlock, ...]
    pooler: Linear
    projection: Projection | None
    padding: int = eqx.field(static=True)

    def __init__(
        self,
        hidden: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        words: int = 50265,
        positions: int = 514,
        types: int = 1,
        padding: int = 1,
        mlp_width: int | None = None,
        activation: Activation = "gelu",
        eps: float = 1e-5,
        projection: int | None = None,
        projection_activation: Activation = "relu",
        key: PRNGKeyArray,
    ):
        if not (0 <= padding < words and positions > padding + 2 and types >= 1):
            raise ValueError(
                "RoBERTa takes a padding that is one of its words, positions for 2 tokens behind it and at least 1 "
                f"type, got words={words}, positions={positions}, types={types} and padding={padding}."
            )
        keys = split(key, depth + 5)
        self.word_embedding = normal(keys[0], (words, hidden), 0.02)
        self.position_embedding = normal(keys[1], (positions, hidden), 0.02)
        self.type_embedding = normal(keys[2], (types, hidden), 0.02)
        self.norm = LayerNorm(hidden, eps=eps)
        self.blocks = transformer_blocks(
            hidden,
            heads,
            mlp_width=mlp_width,
            norm_first=False,
            eps=eps,
            activation=activation,
            keys=keys[5:],
        )
        self.pooler = Linear(hidden, hidden, key=keys[3])
        self.projection = (
            None
            if projection is None
            else Projection(hidden, projection, activation=projection_activation, key=keys[4])
        )
        self.padding = padding

    @property
    def width(self) -> int:
        return self.pooler.outputs if self.projection is None else self.projection.outputs

    @property
    def most_tokens(self) -> int:
        """The largest number of tokens of a text."""
        return len(self.position_embedding) - self.padding - 1

    def __call__(self, tokens: Int[Array, " tokens"], *, length: Length = None) -> Float[Array, " {self.width}"]:
        x = self.features(tokens, length=length)
        y = jnp.tanh(self.pooler(x[0]))
        return y if self.projection is None else self.projection(y)

    def features(
        self, tokens: Int[Array, " tokens"], *, length: Length = None
    ) -> Float[Array, "tokens {self.pooler.inputs}"]:
        """The output of the last block for each token; outputs behind `length` have no meaning."""
        if not 1 <= len(tokens) <= self.most_tokens:
            raise ValueError(f"RoBERTa has positions for 1 to {self.most_tokens} tokens, got {len(tokens)}.")
        words = (tokens != self.padding).astype(jnp.int32)
        positions = jnp.cumsum(words) * words + self.padding
        x = self.word_embedding[tokens] + self.position_embedding[positions]
        x = self.norm(x + jnp.broadcast_to(self.type_embedding[0], x.shape))
        for block in self.blocks:
            x = block(x, length=length)
        return x
