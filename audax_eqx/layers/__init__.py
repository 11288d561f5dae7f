"""Small modules, channels last, one example at a time."""

from .conv import Conv as Conv
from .conv import Depthwise as Depthwise
from .conv import Patchify as Patchify
from .drop import DropPath as DropPath
from .linear import Linear as Linear
from .norm import BatchNorm as BatchNorm
from .norm import LayerNorm as LayerNorm
