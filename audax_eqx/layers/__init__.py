"""Small modules, channels last, one example at a time."""

from .attention import Attention as Attention
from .attention import FusedAttention as FusedAttention
from .conv import Conv as Conv
from .conv import Patchify as Patchify
from .conv_block import ConvBlock as ConvBlock
from .depthwise import Depthwise as Depthwise
from .drop import DropPath as DropPath
from .drop import split_key as split_key
from .excite import SqueezeExcite as SqueezeExcite
from .linear import Linear as Linear
from .linear import pointwise as pointwise
from .norm import BatchNorm as BatchNorm
from .norm import LayerNorm as LayerNorm
from .pcen import EnergyNorm as EnergyNorm
from .pcen import bounded as bounded
from .pool import max_pool as max_pool
from .pool import mean_max as mean_max
from .pool import mean_pool as mean_pool
from .transformer import Activation as Activation
from .transformer import TransformerBlock as TransformerBlock
from .transformer import transformer_blocks as transformer_blocks
