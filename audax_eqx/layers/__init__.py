"""Small modules, channels last, one example at a time."""

from typing import TYPE_CHECKING

from .._lazy import make_lazy

make_lazy(__name__)

if TYPE_CHECKING:
    from .attention import Attention as Attention
    from .attention import FusedAttention as FusedAttention
    from .attention import relative_bias as relative_bias
    from .conv import Conv as Conv
    from .conv import Patchify as Patchify
    from .conv import TimeConv as TimeConv
    from .conv_block import ConvBlock as ConvBlock
    from .cosine import Cosine as Cosine
    from .cosine import unit as unit
    from .depthwise import Depthwise as Depthwise
    from .drop import DropPath as DropPath
    from .drop import split_key as split_key
    from .excite import SqueezeExcite as SqueezeExcite
    from .length import Length as Length
    from .length import keyword as keyword
    from .length import mean_first as mean_first
    from .length import reflect as reflect
    from .length import within as within
    from .length import zero_behind as zero_behind
    from .linear import Linear as Linear
    from .linear import pointwise as pointwise
    from .norm import BatchNorm as BatchNorm
    from .norm import LayerNorm as LayerNorm
    from .pcen import EnergyNorm as EnergyNorm
    from .pcen import bounded as bounded
    from .pool import max_pool as max_pool
    from .pool import mean_max as mean_max
    from .pool import mean_pool as mean_pool
    from .projection import Projection as Projection
    from .prototypes import Prototypes as Prototypes
    from .swin import PatchMerging as PatchMerging
    from .swin import SwinBlock as SwinBlock
    from .transformer import Activation as Activation
    from .transformer import TransformerBlock as TransformerBlock
    from .transformer import activate as activate
    from .transformer import transformer_blocks as transformer_blocks
