"""Models: a frontend, a network, and a head for one kind of training."""

from typing import TYPE_CHECKING

from .._lazy import make_lazy

make_lazy(__name__)

if TYPE_CHECKING:
    from ..networks import WeightedLayers as WeightedLayers
    from .clap import CLAP as CLAP
    from .classifier import Classifier as Classifier
    from .cola import COLA as COLA
    from .encoder import Encoder as Encoder
    from .simclr import SimCLR as SimCLR
