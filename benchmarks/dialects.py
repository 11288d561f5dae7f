"""Whose numbers a function has: each row of the tables in `docs/features.md`, run against the library that it names.

    python benchmarks/dialects.py [PATTERN]

Prints max |ours - theirs| / max |theirs| for the rows that match the shell pattern, the larger of two sample rates. A
Python with librosa, torch, torchaudio, torchlibrosa, openai-whisper, transformers, kaldi-native-fbank and hear21passt
is needed; a row whose library is not there says so. The sound is 1.5 s of noise and half a second of digital silence.
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
    """Their call and ours, of each row of three cells whose last is a figure."""
    return re.findall(r"^\| `(.+?)` \| `(.+?)` \| [\d.e-]+ \|$", page, re.MULTILINE)


def sound(rate: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.1, rate * 3 // 2)
    return np.concatenate([noise, np.zeros(2 * rate - len(noise))]).astype(np.float32)


def native_fbank(samples: np.ndarray, rate: int) -> np.ndarray:
    """Kaldi's own code, by kaldi-native-fbank, with Kaldi's defaults but for the dither."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = rate
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(rate, samples.tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(frame) for frame in range(fbank.num_frames_ready)])


def names(rate: int) -> dict:
    """What a call may use: `y`, the sound in NumPy, `wave` in JAX, `x` in torch, and the libraries there are."""
    y = sound(rate)
    known = {"np": np, "features": features, "frontends": frontends, "augment": augment, "native_fbank": native_fbank}
    known |= {"sr": rate, "y": y, "wave": jnp.asarray(y)}
    for library in LIBRARIES:
        try:
            known[library] = importlib.import_module(library)
        except ImportError:
            continue
    if importlib.util.find_spec("hear21passt"):
        known["AugmentMelSTFT"] = importlib.import_module("hear21passt.models.preprocess").AugmentMelSTFT
    if "torchaudio" in known:
        known["kaldi"] = importlib.import_module("torchaudio.compliance.kaldi")
    if "torch" in known:
        known |= {"x": known["torch"].from_numpy(y), "hann": known["torch"].hann_window(512)}
    return known


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of the largest of theirs; their frames are the last axis, or already the first."""
    ours, theirs = np.asarray(ours), np.squeeze(np.asarray(theirs))
    if theirs.shape != ours.shape:
        theirs = theirs.T
    if theirs.shape != ours.shape:
        raise ValueError(f"ours has the shape {ours.shape}, theirs {theirs.shape}: they are not of one call.")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def main() -> None:
    pattern = sys.argv[1] if len(sys.argv) > 1 else "*"
    warnings.simplefilter("ignore")  # of filters that are empty at 11025 Hz, in all of them
    known = [names(rate) for rate in RATES]
    for theirs, ours in rows(PAGE.read_text(encoding="utf-8")):
        if not fnmatch.fnmatchcase(theirs, pattern):
            continue
        try:
            figures = [distance(eval(ours, each), eval(theirs, each)) for each in known]
        except (NameError, ImportError) as error:
            print(f"not run ({error}): {theirs}", flush=True)
            continue
        print(f"| `{theirs}` | `{ours}` | {max(figures):.0e} |".replace("e-0", "e-"), flush=True)


if __name__ == "__main__":
    main()
