"""ECAPA-TDNN, "ECAPA-TDNN: Emphasized Channel Attention, Propagation and Aggregation in TDNN Based Speaker
Verification", Desplanques et al., 2020, arXiv:2005.07143, as implemented in SpeechBrain.

    frame layer:  norm(relu(convolution over time))
    map -> frame layer (5 frames) -> 3 blocks -> frame layer of all blocks' maps side by side
        -> attentive mean and deviation over time -> norm -> linear

    block:        x + excite(frame layer(Res2Net(frame layer(x))))
    Res2Net:      y[0] = x[0], y[1] = layer(x[1]), y[k] = layer(x[k] + y[k - 1]), x in 8 parts (Gao et al., 2019,
                  arXiv:1904.01169)

Each norm follows a ReLU, and convolutions pad the recording by reflection at its ends.

Weights: https://huggingface.co/speechbrain/spkrec-ecapa-voxceleb and speechbrain/lang-id-voxlingua107-ecapa
(Apache-2.0).
"""

from collections.abc import Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractNetwork, Maps
from ..layers import BatchNorm, Length, Linear, SqueezeExcite, TimeConv, reflect, within
from ..layers.initial import split

State = eqx.nn.State


class FrameLayer(eqx.Module):
    """norm(relu(convolution)) over `taps` frames, `dilation` apart; the number of frames stays the same."""

    conv: TimeConv
    norm: BatchNorm

    def __init__(self, inputs: int, outputs: int, taps: int = 1, dilation: int = 1, *, key: PRNGKeyArray):
        self.conv = TimeConv(inputs, outputs, taps, padding="valid", dilation=dilation, key=key)
        self.norm = BatchNorm(outputs)

    def __call__(
        self, x: Float[Array, "time inputs"], state: State, *, length: Length = None
    ) -> tuple[Float[Array, "time outputs"], State]:
        y = self.conv(reflect(x, self.conv.span // 2, length))
        return self.norm(jax.nn.relu(y), state)


class Res2Net(eqx.Module):
    """Convolutions over parts of the channels; each also gets the output of the previous convolution."""

    layers: tuple[FrameLayer, ...]

    def __init__(self, channels: int, parts: int, taps: int, dilation: int, *, key: PRNGKeyArray):
        part = channels // parts
        keys = split(key, parts - 1)
        self.layers = tuple(FrameLayer(part, part, taps, dilation, key=layer_key) for layer_key in keys)

    def __call__(
        self, x: Float[Array, "time channels"], state: State, *, length: Length = None
    ) -> tuple[Float[Array, "time channels"], State]:
        first, *parts = jnp.split(x, len(self.layers) + 1, axis=1)
        maps = [first]
        for layer, part in zip(self.layers, parts, strict=True):
            y, state = layer(part if len(maps) == 1 else part + maps[-1], state, length=length)
            maps.append(y)
        return jnp.concatenate(maps, axis=1), state


class Block(eqx.Module):
    """A residual branch: a Res2Net between two frame layers, then squeeze-and-excitation."""

    reduce: FrameLayer
    res2net: Res2Net
    expand: FrameLayer
    excite: SqueezeExcite

    def __init__(self, channels: int, *, parts: int, squeezed: int, taps: int, dilation: int, key: PRNGKeyArray):
        keys = split(key, 4)
        self.reduce = FrameLayer(channels, channels, key=keys[0])
        self.res2net = Res2Net(channels, parts, taps, dilation, key=keys[1])
        self.expand = FrameLayer(channels, channels, key=keys[2])
        self.excite = SqueezeExcite(channels, squeezed, activation="relu", key=keys[3])

    def __call__(
        self, x: Float[Array, "time channels"], state: State, *, length: Length = None
    ) -> tuple[Float[Array, "time channels"], State]:
        y, state = self.reduce(x, state)
        y, state = self.res2net(y, state, length=length)
        y, state = self.expand(y, state)
        return x + self.excite(y[:, None], length=length)[:, 0], state


class AttentiveStatistics(eqx.Module):
    """Mean and deviation of each channel over time; each channel has its own attention weights (Okabe et al., 2018,
    arXiv:1803.10963). With `context` the input of the attention is each frame beside the recording's plain mean and
    deviation."""

    hidden: FrameLayer
    weigh: Linear
    context: bool = eqx.field(static=True)

    def __init__(self, channels: int, hidden: int, *, context: bool = True, key: PRNGKeyArray):
        hidden_key, weigh_key = split(key, 2)
        self.hidden = FrameLayer(3 * channels if context else channels, hidden, key=hidden_key)
        self.weigh = Linear(hidden, channels, scale=hidden**-0.5, key=weigh_key)
        self.context = context

    def __call__(
        self, x: Float[Array, "time channels"], state: State, *, length: Length = None
    ) -> tuple[Float[Array, " statistics"], State]:
        inside = within(len(x), None if length is None else jnp.maximum(length, 1))[:, None]
        inputs = x
        if self.context:
            count = jnp.sum(inside, dtype=jnp.float32)
            equal = jnp.broadcast_to(inside.astype(jnp.float32) / count, x.shape)
            context = [jnp.broadcast_to(value.astype(x.dtype), x.shape) for value in statistics(x, equal)]
            inputs = jnp.concatenate([x, *context], axis=1)
        hidden, state = self.hidden(inputs, state)
        scores = self.weigh(jnp.tanh(hidden)).astype(jnp.float32)
        weights = jax.nn.softmax(scores, axis=0, where=jnp.broadcast_to(inside, scores.shape))
        return jnp.concatenate(statistics(x, weights)).astype(x.dtype), state


def statistics(
    x: Float[Array, "time channels"], weights: Float[Array, "time channels"]
) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """The weighted mean and deviation of each channel, in float32; the weights of a channel sum to 1."""
    wide = x.astype(jnp.float32)
    mean = jnp.sum(weights * wide, axis=0)
    variance = jnp.sum(weights * jnp.square(wide - mean[None]), axis=0)
    return mean, jnp.sqrt(jnp.maximum(variance, 1e-12))


class ECAPA(AbstractNetwork):
    """Maps `frames bins` to an embedding of the speaker, or of the spoken language.

    - `width`: the width of the embedding.
    - `channels`: the channels of the first layer and of the blocks.
    - `outputs`: the channels of the last layer, whose input is the maps of all blocks.
    - `bins`: the bins of the input.
    - `taps`, `dilations`: those of the first layer, of the Res2Net of each block, and of the last layer.
    - `parts`: the number of parts into which each Res2Net divides its channels.
    - `squeezed`, `hidden`: the channels in the middle of squeeze-and-excitation and of the attention.
    - `context`: whether the attention gets the recording's statistics beside each frame.

    The feature map is the output of the last layer; its steps are frames. `layers` has the outputs of the first layer,
    of the blocks, and of the last layer. Raises ValueError for sizes that do not go together.
    """

    blocks: tuple[FrameLayer | Block, ...]
    aggregate: FrameLayer
    pool: AttentiveStatistics
    norm: BatchNorm
    embed: Linear
    width: int = eqx.field(static=True)

    def __init__(
        self,
        width: int = 192,
        channels: int = 1024,
        outputs: int = 3072,
        *,
        bins: int = 80,
        taps: Sequence[int] = (5, 3, 3, 3, 1),
        dilations: Sequence[int] = (1, 2, 3, 4, 1),
        parts: int = 8,
        squeezed: int = 128,
        hidden: int = 128,
        context: bool = True,
        key: PRNGKeyArray,
    ):
        if not len(taps) == len(dilations) > 2 or min(*taps, *dilations) < 1 or not all(count % 2 for count in taps):
            raise ValueError(
                "ECAPA takes as many taps as dilations, at least 3 of each, all at least 1, and odd numbers of taps, "
                f"got {tuple(taps)} and {tuple(dilations)}."
            )
        if min(width, channels, outputs, bins, squeezed, hidden, parts - 1) < 1 or channels % parts:
            raise ValueError(
                "ECAPA takes widths of at least 1, and channels that at least 2 parts divide, got "
                f"width={width}, channels={channels}, outputs={outputs}, bins={bins}, parts={parts}, "
                f"squeezed={squeezed} and hidden={hidden}."
            )
        keys = split(key, len(taps) + 2)
        stem = FrameLayer(bins, channels, taps[0], dilations[0], key=keys[0])
        sizes = zip(taps[1:-1], dilations[1:-1], keys[1:], strict=False)
        self.blocks = (
            stem,
            *(
                Block(channels, parts=parts, squeezed=squeezed, taps=count, dilation=dilation, key=block_key)
                for count, dilation, block_key in sizes
            ),
        )
        inputs = channels * (len(taps) - 2)
        self.aggregate = FrameLayer(inputs, outputs, taps[-1], dilations[-1], key=keys[-3])
        self.pool = AttentiveStatistics(outputs, hidden, context=context, key=keys[-2])
        self.norm = BatchNorm(2 * outputs)
        self.embed = Linear(2 * outputs, width, key=keys[-1])
        self.width = width

    @property
    def takes_length(self) -> bool:
        return True

    def layers(
        self,
        x: Float[Array, "frames bins"],
        state: State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Maps, State]:
        y, maps = x, []
        for block in self.blocks:
            y, state = block(y, state, length=length)
            maps.append(y)
        y, state = self.aggregate(jnp.concatenate(maps[1:], axis=1), state, length=length)
        return tuple(frames[:, None] for frames in (*maps, y)), state

    def __call__(
        self,
        x: Float[Array, "frames bins"],
        state: State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.width}"], State]:
        y, state = self.features(x, state, length=length, key=key)
        pooled, state = self.pool(y[:, 0], state, length=length)
        normal, state = self.norm(pooled, state)
        return self.embed(normal), state

    def positions(self, time: int, layer: int = -1) -> Float[np.ndarray, " {time}"]:
        return np.arange(time, dtype=np.float64)


ecapa_512 = partial(ECAPA, channels=512, outputs=1536)
ecapa_1024 = partial(ECAPA, channels=1024, outputs=3072)
