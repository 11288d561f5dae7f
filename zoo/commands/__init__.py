"""The commands of `audax-zoo`: each module adds its own to the parser."""

from . import app as app
from . import events as events
from . import export as export
from . import models as models
from . import recordings as recordings
from . import search as search
from . import speakers as speakers
