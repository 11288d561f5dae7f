"""Compares functions with those of other libraries: runs both calls of each row of the tables in `docs/features.md`.

    python benchmarks/dialects.py [PATTERN]

For each row that matches the shell pattern it prints max |ours - theirs| / max |theirs|, the larger of the values at
two sample rates. It needs librosa, torch, torchaudio, torchlibrosa, openai-whisper, transformers, kaldi-native-fbank
and hear21passt; a row whose library is missing is printed as not run. The sound is 1.5 s of noise and half a second of
digital silence.
"""

import fnmatch
import importlib
import importlib.util
import pathlib
import re
import sys
import warnings

import jax.numpy as jnp
import numpy as np

from audax_eqx import augment, features, frontends

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "features.md"
LIBRARIES = ("librosa", "torch", "torchaudio", "torchlibrosa", "transformers", "whisper")
RATES = (16000, 11025)


def rows(page: str) -> list[tuple[str, str]]:
    """The library's call and ours, from each row of the page that has a third cell with a figure."""
    return re.findall(r"^\| `(.+?)` \| `(.+?)` \| [\d.e-]+ \|$", page, re.MULTILINE)


def sound(rate: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.1, rate * 3 // 2)
    return np.concatenate([noise, np.zeros(2 * rate - len(noise))]).astype(np.float32)


def native_fbank(samples: np.ndarray, rate: int) -> np.ndarray:
    """Features by Kaldi's own code, from kaldi-native-fbank, with Kaldi's defaults except for the dither of 0."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = rate
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(rate, samples.tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(frame) for frame in range(fbank.num_frames_ready)])


def namespace(rate: int) -> dict:
    """The names that a call may use: the sound as `y` in NumPy, `wave` in JAX and `x` in torch, and the libraries that
    are installed."""
    y = sound(rate)
    names = {"np": np, "features": features, "frontends": frontends, "augment": augment, "native_fbank": native_fbank}
    names |= {"sr": rate, "y": y, "wave": jnp.asarray(y)}
    for library in LIBRARIES:
        try:
            names[library] = importlib.import_module(library)
        except ImportError:
            continue
    if importlib.util.find_spec("hear21passt"):
        names["AugmentMelSTFT"] = importlib.import_module("hear21passt.models.preprocess").AugmentMelSTFT
    if "torchaudio" in names:
        names["kaldi"] = importlib.import_module("torchaudio.compliance.kaldi")
    if "torch" in names:
        names |= {"x": names["torch"].from_numpy(y), "hann": names["torch"].hann_window(512)}
    return names


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a share of the largest of their values.

    Our frames are the first axis. Theirs are the first or the last. Raises ValueError for other shapes.
    """
    ours, theirs = np.asarray(ours), np.squeeze(np.asarray(theirs))
    if theirs.shape != ours.shape:
        theirs = theirs.T
    if theirs.shape != ours.shape:
        raise ValueError(f"ours has the shape {ours.shape}, theirs {theirs.shape}: these are not the same features.")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def main() -> None:
    pattern = sys.argv[1] if len(sys.argv) > 1 else "*"
    warnings.simplefilter("ignore")  # all libraries warn of filters that are empty at 11025 Hz
    namespaces = [namespace(rate) for rate in RATES]
    for theirs, ours in rows(PAGE.read_text(encoding="utf-8")):
        if not fnmatch.fnmatchcase(theirs, pattern):
            continue
        try:
            figures = [distance(eval(ours, names), eval(theirs, names)) for names in namespaces]
        except (NameError, ImportError) as error:
            print(f"not run ({error}): {theirs}", flush=True)
            continue
        print(f"| `{theirs}` | `{ours}` | {max(figures):.0e} |".replace("e-0", "e-"), flush=True)


if __name__ == "__main__":
    main()
