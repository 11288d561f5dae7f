"""Models: a frontend, a network, and what its embedding is trained for."""

from .classifier import Classifier as Classifier
from .cola import COLA as COLA
from .simclr import SimCLR as SimCLR
