"""Tools for programs that are built on the zoo, such as `train`, beside its models.

They write files completely or not at all, lock folders for one process at a time, read texts and JSON from others,
check the limits of an entry, keep compiled programs in a cache, and run the engine of `zoo.embed` with your own output.
`UNREADABLE` are the errors of a recording that cannot be read. `SUFFIXES` and `FOREIGN` are the suffixes of the sound
files that libsndfile and FFmpeg read.
"""

from typing import TYPE_CHECKING

from audax_eqx._lazy import make_lazy

make_lazy(__name__)

if TYPE_CHECKING:
    from .._audio import UNREADABLE as UNREADABLE
    from .._audio import window_size as window_size
    from .._cache import keep_programs as keep_programs
    from .._files import line as line
    from .._files import parse_json as parse_json
    from .._fingerprint import fingerprint as fingerprint
    from .._limits import check_entry as check_entry
    from .._lock import busy as busy
    from .._lock import locked as locked
    from .._pretrained import embedding as embedding
    from .._pretrained import output as output
    from .._pretrained import scores as scores
    from .._recordings import Options as Options
    from .._recordings import results as results
    from .._search import FOREIGN as FOREIGN
    from .._search import SUFFIXES as SUFFIXES
    from .._speakers import equal_error_rate as equal_error_rate
    from .._speakers import minimum_cost as minimum_cost
    from .._weights import atomic as atomic
