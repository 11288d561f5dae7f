"""Adapts all models of the zoo to HEAR, the "Holistic Evaluation of Audio Representations", Turian et al., 2022,
arXiv:2203.03022, by its API, https://hearbenchmark.com/hear-api.html. HEAR's tools check this module and embed tasks:

    hear-validator zoo.hear --model convnext_audioset
    python -m heareval.embeddings.runner zoo.hear --model-options '{"model_file_path": "convnext_audioset"}'

Models are named as for `zoo.load`; the runner's own `--model` takes folders only. HEAR has its sounds at 16000, 22050,
32000, 44100 and 48000 Hz, and the validator refuses models of other rates. The tools import torch and TensorFlow;
XLA_PYTHON_CLIENT_PREALLOCATE=false leaves room for them on a GPU. Their last releases require Python 3.8: pip installs
them with `--ignore-requires-python --no-deps`. The zoo imports neither: a caller with tensors has imported them.

Timestamps are finer than a network's frames, which are a stride apart. So the model processes the recording several
times, each time from a slightly later start, and the frames of all passes are interleaved:

    1st time   |-----*-----|-----*-----|-----*-----|              * the centre of a frame
    2nd time       |-----*-----|-----*-----|-----*-----|
    3rd time           |-----*-----|-----*-----|-----*-----|
    together         *   *   *   *   *   *   *   *   *            timestamps

Each embedding thus has the network's full context. The cost is stride / 50 ms times that of one pass: 2 times for AST,
7 times for a stride of 320 ms. A window around each timestamp would cost 20 windows a second.
"""

import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._audio import window_size
from ._load import load
from ._models import DEFAULT
from ._pretrained import Pretrained
from ._recordings import embed
from ._wave import check_floating, check_process, finite_samples


class HearModel:
    """A `zoo.Pretrained`, `clip`, with the attributes that HEAR needs: `sample_rate` in Hz, and the widths of its
    embeddings. `hop` is the largest distance between timestamps in milliseconds."""

    def __init__(self, clip: Pretrained, hop: float):
        super().__init__()
        self.clip, self.hop = clip, hop
        self.sample_rate = clip.sample_rate
        self.scene_embedding_size = clip.model.network.width
        wave = jax.ShapeDtypeStruct((window_size(clip.entry.window, clip.sample_rate),), jnp.float32)
        # Frames may have another width than the embedding, for example that before a projection
        self.timestamp_embedding_size = eqx.filter_eval_shape(clip.frames, wave).shape[1]


def load_model(model_file_path: str | os.PathLike = "", hop: float = 50.0) -> HearModel:
    """The model of a name, a folder or a Hub repo, as `zoo.load` takes them; without one, the packaged model.

    `hop` is the largest distance between timestamps in milliseconds; math.inf leaves them as far apart as the network's
    frames. The model is a `torch.nn.Module` if torch is imported, or else a `tf.Module` if TensorFlow is, because
    HEAR's tools take nothing else. Raises what `zoo.load` raises, and ValueError for a `hop` that is not positive.
    """
    if not hop > 0:
        raise ValueError(f"zoo.hear takes a hop of some milliseconds, more than 0, got {hop}.")
    torch, tensorflow = sys.modules.get("torch"), sys.modules.get("tensorflow")
    bases = (torch.nn.Module,) if torch else (tensorflow.Module,) if tensorflow else ()
    return type("HearModel", (HearModel, *bases), {})(load(model_file_path or DEFAULT), hop)


def get_scene_embeddings(audio: Any, model: HearModel) -> Any:
    """`n_sounds n_samples` in [-1, 1], at the model's rate, to `n_sounds scene_embedding_size`, in float32.

    A sound is cut into windows of the model's native length, the last filled up with silence. The embedding is the mean
    over the windows, weighted by their samples, as `audax-zoo embed` computes it. The result is of the same kind as
    `audio`, a NumPy or JAX array or a torch or TensorFlow tensor, on the same device. Raises TypeError or ValueError
    for other models, and for anything but finite floating-point sounds.
    """
    sounds, back = _checked(audio, model)
    results = embed(model.clip, ((sound, model.sample_rate) for sound in sounds))
    return back(np.concatenate([result.values for result in results]))


def get_timestamp_embeddings(audio: Any, model: HearModel) -> tuple[Any, Any]:
    """`n_sounds n_samples` to embeddings, `n_sounds n_timestamps timestamp_embedding_size`, and their timestamps,
    `n_sounds n_timestamps`, in milliseconds, both in float32.

    A sound is divided into hops of equal length, at most the model's `hop`, and the middle of each is a timestamp. The
    last hop may be shorter, down to half of the length. Takes and raises what `get_scene_embeddings` does.
    """
    sounds, back = _checked(audio, model)
    clip, rate, samples = model.clip, model.sample_rate, sounds.shape[1]
    first, second = clip.frame_times(2) * rate
    stride = round(second - first)
    shifts = max(math.ceil(1000 * stride / (model.hop * rate)), 1)
    hop = stride / shifts  # rounded, it would let timestamps drift

    min_samples, max_samples = clip.model.frontend.min_samples, getattr(clip.model.frontend, "max_samples", None)
    size = samples if max_samples else window_size(clip.entry.window, rate)
    size = min(size + stride + min_samples, max_samples or math.inf)  # networks leave out an incomplete frame
    frames = eqx.filter_eval_shape(clip.frames, jax.ShapeDtypeStruct((size,), jnp.float32)).shape[0]

    timestamps = max(math.floor(samples / hop + 0.5), 1)
    windows = math.ceil(timestamps / (frames * shifts))
    middles = [(window * frames * shifts + shift + 0.5) * hop for window in range(windows) for shift in range(shifts)]
    embeddings = _apply(_frames, clip, sounds, [round(middle - first) for middle in middles], size)
    embeddings = embeddings.reshape(len(sounds), windows, shifts, frames, -1).swapaxes(2, 3)
    embeddings = embeddings.reshape(len(sounds), -1, model.timestamp_embedding_size)[:, :timestamps]
    milliseconds = (np.arange(timestamps, dtype=np.float64) + 0.5) * hop * 1000 / rate
    return back(embeddings), back(np.tile(milliseconds.astype(np.float32), (len(sounds), 1)))


def _checked(audio: Any, model: HearModel) -> tuple[Float[np.ndarray, "sounds samples"], Callable[[np.ndarray], Any]]:
    """The sounds as a NumPy array, and the function that turns results into the kind of `audio`."""
    if not isinstance(model, HearModel):
        raise TypeError(f"zoo.hear takes a model of zoo.hear.load_model, got a {type(model).__name__}.")
    torch, tensorflow = sys.modules.get("torch"), sys.modules.get("tensorflow")
    if torch and isinstance(audio, torch.Tensor):
        sounds, back = audio.detach().cpu().numpy(), lambda array: torch.from_numpy(array).to(audio.device)
    elif tensorflow and isinstance(audio, tensorflow.Tensor):
        sounds, back = audio.numpy(), tensorflow.convert_to_tensor
    elif isinstance(audio, np.ndarray | jax.Array):
        sounds, back = np.asarray(audio), jnp.asarray if isinstance(audio, jax.Array) else np.asarray
    else:
        raise TypeError(
            f"zoo.hear takes audio as a NumPy or JAX array or a torch or TensorFlow tensor, got a "
            f"{type(audio).__name__}: np.stack(waves) makes an array of waves of one length."
        )
    if sounds.ndim != 2 or sounds.size == 0:
        raise ValueError(
            f"zoo.hear takes audio of shape (n_sounds, n_samples), at least 1 of each, got {sounds.shape}: one sound "
            "is wave[None]."
        )
    check_process(model.clip.entry.name)
    check_floating(sounds, model.clip.entry.name)
    return finite_samples(sounds, model.clip.entry.name), back


def _apply(
    function: Callable[[Pretrained, Float[np.ndarray, "waves samples"]], Array],
    clip: Pretrained,
    sounds: Float[np.ndarray, "sounds samples"],
    starts: Sequence[int],
    size: int,
) -> Float[np.ndarray, "sounds starts ..."]:
    """`function` of `size` samples from each of `starts` on, with silence before and behind a sound.

    It runs on batches of one shape for any number of sounds, so it compiles once and its memory is bounded.
    """
    head, tail = max(-min(starts), 0), max(max(starts) + size - sounds.shape[1], 0)
    long_sounds = np.pad(sounds, ((0, 0), (head, tail)))
    places = [(sound, head + start) for sound in range(len(sounds)) for start in starts]
    batch, results = _batch(), []
    for begin in range(0, len(places), batch):
        part = places[begin : begin + batch]
        waves = np.zeros((batch, size), np.float32)
        for row, (sound, start) in enumerate(part):
            waves[row] = long_sounds[sound, start : start + size]
        results.append(np.asarray(function(clip, waves), np.float32)[: len(part)])
    result = np.concatenate(results)
    return result.reshape(len(sounds), len(starts), *result.shape[1:])


def _batch() -> int:
    """Waves at a time: 1 on CPU, where all cores share its cache; else 16, for which AST's attention takes 1.1 GB."""
    return 1 if jax.default_backend() == "cpu" else 16


@eqx.filter_jit
def _frames(clip: Pretrained, waves: Float[np.ndarray, "waves samples"]) -> Array:
    return eqx.filter_vmap(clip.frames)(waves)
