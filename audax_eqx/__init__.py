"""Audio features, layers, frontends, networks and models for JAX, as Equinox PyTrees.

Shapes are checked by jaxtyping and beartype; `JAXTYPING_DISABLE=1` in the environment turns the checks off.
"""

from typing import TYPE_CHECKING

from ._lazy import make_lazy
from ._typecheck import check_modules

check_modules(r"audax_eqx\..+")
make_lazy(__name__)

if TYPE_CHECKING:
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
    from .models.abstract import AbstractModel as AbstractModel
