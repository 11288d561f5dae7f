"""A sound that comes with the package."""

import pathlib


def example() -> pathlib.Path:
    """The path of a recording to try things on: ten seconds of rain, then ten of a ticking clock, mono at 44,100 Hz.

    `docs/figures/sounds.py` made it.
    """
    return pathlib.Path(__file__).parent / "sounds" / "rain_clock.ogg"
