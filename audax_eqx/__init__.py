"""Audio features, layers, frontends, networks and models for JAX, as Equinox PyTrees.

Shapes are checked by jaxtyping and beartype; `JAXTYPING_DISABLE=1` in the environment turns the checks off.
"""

import equinox  # noqa: F401, and with it jax, which takes three times as long to import behind the hook
from jaxtyping import install_import_hook

from . import _typecheck as _typecheck

with install_import_hook("audax_eqx", "audax_eqx._typecheck.typecheck"):
    from . import augment as augment
    from . import features as features
    from . import frontends as frontends
    from . import layers as layers
    from . import lora as lora
    from . import models as models
    from . import networks as networks
    from . import tree as tree
    from .abstract import AbstractFrontend as AbstractFrontend
    from .abstract import AbstractNetwork as AbstractNetwork
