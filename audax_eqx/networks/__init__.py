"""Networks from `frames bins` to an embedding, one architecture a file. This namespace is their registry."""

from .convnext import ConvNeXt as ConvNeXt
from .convnext import convnext_atto as convnext_atto
from .convnext import convnext_base as convnext_base
from .convnext import convnext_femto as convnext_femto
from .convnext import convnext_large as convnext_large
from .convnext import convnext_nano as convnext_nano
from .convnext import convnext_pico as convnext_pico
from .convnext import convnext_small as convnext_small
from .convnext import convnext_tiny as convnext_tiny
from .convnext import convnext_xlarge as convnext_xlarge
