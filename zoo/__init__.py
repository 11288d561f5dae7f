"""The model zoo: one line gives a pretrained network that eats waveforms."""

from jaxtyping import install_import_hook

import audax_eqx  # noqa: F401, before the hook, behind which imports take longer

with install_import_hook("zoo", "audax_eqx._typecheck.typecheck"):
    from ._audio import read as read
    from ._audio import windows as windows
    from ._cluster import Embedder as Embedder
    from ._convert import convert as convert
    from ._entry import Checkpoint as Checkpoint
    from ._entry import Entry as Entry
    from ._entry import Model as Model
    from ._entry import create as create
    from ._events import Event as Event
    from ._events import detect as detect
    from ._example import example as example
    from ._export import export as export
    from ._load import info as info
    from ._load import list_models as list_models
    from ._load import load as load
    from ._matches import Match as Match
    from ._matches import search as search
    from ._pretrained import Pretrained as Pretrained
    from ._pretrained import Thawed as Thawed
    from ._publish import publish as publish
    from ._recordings import embed as embed
    from ._recordings import tag as tag
    from ._register import register as register
    from ._result import Result as Result
    from ._save import save as save
    from ._weights import arrays as arrays

from . import hear as hear  # behind the hook, for these take what other libraries bring
from . import mteb as mteb
from . import xares as xares
