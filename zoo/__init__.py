"""The model zoo: one line gives a pretrained network that eats waveforms."""

from typing import TYPE_CHECKING

from audax_eqx._lazy import make_lazy
from audax_eqx._typecheck import check_modules

check_modules(r"zoo\.(families|_[a-z]\w*)")  # other modules get objects of other libraries, whose types are not checked
make_lazy(__name__)

if TYPE_CHECKING:
    from . import hear as hear
    from . import mteb as mteb
    from . import xares as xares
    from ._audio import read as read
    from ._audio import windows as windows
    from ._cluster import Embedder as Embedder
    from ._convert import convert as convert
    from ._create import create as create
    from ._entry import Checkpoint as Checkpoint
    from ._entry import Entry as Entry
    from ._events import Event as Event
    from ._events import detect as detect
    from ._example import example as example
    from ._export import export as export
    from ._load import load as load
    from ._matches import Match as Match
    from ._matches import search as search
    from ._models import info as info
    from ._models import list_models as list_models
    from ._pretrained import Pretrained as Pretrained
    from ._pretrained import Thawed as Thawed
    from ._publish import publish as publish
    from ._recordings import embed as embed
    from ._recordings import tag as tag
    from ._register import Model as Model
    from ._register import register as register
    from ._result import Result as Result
    from ._save import save as save
    from ._weights import arrays as arrays
