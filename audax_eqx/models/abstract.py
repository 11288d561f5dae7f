"""The two abstract models: a frontend with a network, and one that also projects the embedding."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..abstract import AbstractFrontend, AbstractNetwork
from ..layers import Length, keyword


class AbstractModel(eqx.Module):
    """A model with a `frontend` and a `network`; subclasses define the call, and what follows the embedding.

    If the model accepts a length (`takes_length`), `length` is the number of valid samples of a padded wave. Frontend
    and network then ignore the padding, or the frontend replaces it by something that the network is meant to read.
    """

    frontend: eqx.AbstractVar[AbstractFrontend]
    network: eqx.AbstractVar[AbstractNetwork]

    @property
    def takes_length(self) -> bool:
        """Whether a padded clip with its `length` gives the result of the clip without padding."""
        return self.frontend.takes_length and (self.frontend.fills or self.network.takes_length)

    def listen(self, wave: Float[Array, " samples"], *, length: Length = None) -> Float[Array, "frames bins"]:
        """The frontend's features, which are float32, in the dtype that the network computes in.

        Raises ValueError for a length if the frontend accepts none.
        """
        frontend: Any = self.frontend
        if length is None:
            features = frontend(wave)
        elif frontend.takes_length:
            features = frontend(wave, length=length)
        else:
            raise ValueError(
                f"{type(frontend).__name__} takes no length, because its result depends on the padding: give each clip "
                "without padding."
            )
        leaves = jax.tree.leaves(eqx.filter(self.network, eqx.is_inexact_array))
        return features.astype(leaves[0].dtype if leaves else jnp.float32)

    def valid(self, samples: int, length: Length = None) -> dict[str, Array]:
        """The network's keywords for a wave whose first `length` samples are valid: `{"length": frames}` or `{}`.

        They are `{}` if the network may read every frame: if there is no length and the frontend does not pad the clip,
        if the network is meant to read the frontend's filling, and if the model accepts no length. Raises ValueError
        for a length if the model accepts none.
        """
        frontend: Any = self.frontend
        if not self.takes_length:
            if length is not None:
                raise ValueError(
                    f"{type(self.network).__name__} behind {type(frontend).__name__} takes no length, because its "
                    "result depends on the padding: give each clip without padding."
                )
            return {}
        if frontend.fills:
            return {}
        if length is None:
            wave = jax.ShapeDtypeStruct((samples,), jnp.float32)
            if frontend.frames(samples) >= eqx.filter_eval_shape(frontend, wave).shape[0]:
                return {}
            length = samples
        return {"length": jnp.asarray(frontend.frames(length), jnp.int32)}

    def embed(
        self,
        wave: Float[Array, " samples"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.network.width}"], eqx.nn.State]:
        """The clip's embedding: the network's output."""
        network: Any = self.network
        return network(self.listen(wave, length=length), state, key=key, **self.valid(wave.size, length))


class AbstractContrastive(AbstractModel):
    """A model that projects embeddings to `width` numbers. Subclasses define `similarity` of two projections."""

    projection: eqx.AbstractVar[eqx.Module]
    width: eqx.AbstractVar[int]

    def __call__(
        self,
        wave: Float[Array, " samples"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.width}"], eqx.nn.State]:
        """The projection of a wave, in float32, for `similarity`."""
        return self.project(self.listen(wave, length=length), state, key=key, **self.valid(wave.size, length))

    def project(
        self,
        x: Float[Array, "frames bins"],
        state: eqx.nn.State,
        *,
        length: Length = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "{self.width}"], eqx.nn.State]:
        """The projection of the features of `listen`, for training that augments between frontend and network. `length`
        is in frames, as in the result of `valid`."""
        model: Any = self
        embedding, state = model.network(x, state, key=key, **keyword(length))
        return model.projection(embedding).astype(jnp.float32), state
