"""Adapts all models of the zoo to X-ARES, the "eXtensive Audio Representation and Evaluation Suite", Zhang et al.,
2025, arXiv:2505.16369. X-ARES takes a file with an encoder, for example `birds.py`, and files of tasks:

    import zoo

    def BirdsEncoder():
        return zoo.xares.load_model("birds")

    python -m xares.run birds.py src/tasks/*.py

Models are named as for `zoo.load`. `pip install xares "torchaudio<2.9"`, the extra `xares`, installs the suite and
torch, which trains the heads; the zoo computes the embeddings. A later torchaudio reads sounds by torchcodec, which
needs the libraries of FFmpeg. On a GPU XLA_PYTHON_CLIENT_PREALLOCATE=false leaves room for both.

X-ARES takes embeddings over time, at equal distances, and averages them for tasks on whole clips. These embeddings are
the network's frames, which `zoo.embed` computes for recordings of any length.
"""

import importlib
import os
import re
import sys
from typing import Any

import numpy as np

from ._fingerprint import fingerprint
from ._load import load
from ._models import DEFAULT
from ._pretrained import Pretrained
from ._recordings import embed


class XaresEncoder:
    """A `zoo.Pretrained`, `clip`, with the attributes that X-ARES needs: `sampling_rate` in Hz, the width of its
    embeddings, `output_dim`, and their distance, `hop_size_in_ms`."""

    def __init__(self, clip: Pretrained):
        super().__init__()
        first, second = clip.frame_times(2)
        self.clip, self.sampling_rate, self.hop_size_in_ms = clip, clip.sample_rate, 1000 * float(second - first)
        results = embed(clip, [(np.zeros(clip.sample_rate, np.float32), clip.sample_rate)], each="frame")
        self.output_dim = next(results).values.shape[1]

    def forward(self, audio: Any) -> Any:
        """`n_sounds n_samples` of a torch tensor in [-1, 1], at the model's rate, to `n_sounds n_frames output_dim`, in
        float32 on the same device; one sound may come without its first axis. Raises as `zoo.embed` does."""
        torch: Any = sys.modules["torch"]
        if not isinstance(audio, torch.Tensor) or audio.ndim not in (1, 2) or audio.numel() == 0:
            kind = f"the shape {tuple(audio.shape)}" if hasattr(audio, "shape") else f"a {type(audio).__name__}"
            raise ValueError(f"zoo.xares takes a torch tensor of the shape (n_sounds, n_samples), got {kind}.")
        waves = np.atleast_2d(audio.detach().cpu().to(torch.float32).numpy())
        results = embed(self.clip, ((wave, self.sampling_rate) for wave in waves), each="frame")
        return torch.from_numpy(np.stack([result.values for result in results])).to(audio.device)


def load_model(name: str | os.PathLike = "") -> XaresEncoder:
    """The model of a name, a folder or a Hub repo, as `zoo.load` takes them; without one, the packaged model. It is a
    `torch.nn.Module`.

    X-ARES stores embeddings by the name of the encoder's class. Each model has its own class, whose name is made from
    the model's name and weights, so that no model gets the embeddings of another. Raises what `zoo.load` raises,
    and ModuleNotFoundError without torch.
    """
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"zoo.xares needs {error.name}: pip install xares 'torchaudio<2.9', or the extra xares.", name=error.name
        ) from None
    clip = load(name or DEFAULT)
    words = re.findall("[a-zA-Z0-9]+", clip.entry.name)
    kind = f"{''.join(map(str.capitalize, words))}_{fingerprint(clip)}_Encoder"
    return type(kind, (XaresEncoder, torch.nn.Module), {})(clip)
