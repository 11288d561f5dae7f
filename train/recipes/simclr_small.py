"""SimCLR on the small network and the recordings of `cola_small`.

Data: a CSV of `files,labels`, as for `cola_small` and in the same prepared folder:

    audax-train prepare path/to/sounds.csv sounds --sample-rate 16000
    audax-train simclr_small sounds runs/simclr
    audax-train save runs/simclr simclr_small --dtype float16
"""

from dataclasses import replace

from ..objectives import Augment, NTXent
from . import cola_small

base = cola_small.recipe

recipe = replace(
    base,
    name="simclr_small",
    model=replace(
        base.model, head={"type": "SimCLR", "width": 64, "temperature": 0.2}, paper="https://arxiv.org/abs/2002.05709"
    ),
    data=replace(base.data, balanced=False),
    objective=NTXent(augment=Augment(shift=True, gain=6.0, noise=10.0, resize=1.5, frames=20, bins=12)),
    run=replace(base.run, epochs=30.0),
)
