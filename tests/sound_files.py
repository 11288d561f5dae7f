"""Files of sound in every container, and what is read of them."""

import warnings

import numpy as np
import soundfile

import zoo
from zoo._decode import BLOCK

RATE = 16000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wavex": ("WAVEX", "PCM_24"),
    "float": ("WAV", "FLOAT"),
    "adpcm": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "aifc": ("AIFF", "ULAW"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "svx": ("SVX", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def sound(seconds=2.0, rate=RATE, seed=0, channels=1):
    """Noise from soft to loud: what is not heard is missed."""
    shape = (round(seconds * rate), channels)[: 1 + (channels > 1)]
    ramp = np.linspace(0.05, 0.5, shape[0]).reshape(-1, *[1] * (channels > 1))
    return np.random.default_rng(seed).uniform(-1, 1, shape) * ramp


def write_sound(path, kind, samples=None, rate=RATE, **options):
    """The path of a file of that kind, and its bytes."""
    form, subtype = FORMATS[kind]
    soundfile.write(path, sound() if samples is None else samples, rate, subtype=subtype, format=form, **options)
    return path, path.read_bytes()


def decode(path):
    """What libsndfile makes of the file, mono. How MP3 is rounded depends on the size of its blocks."""
    with soundfile.SoundFile(path) as file:
        return file.read(BLOCK, dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)


def replace_bytes(data, at, content):
    return data[:at] + content + data[at + len(content) :]


def read_quietly(path, rate=RATE):
    """What is read, where nothing may be warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return zoo.read(path, rate)


def strip_count(mp3):
    """An MP3 file without its first frame, which holds the count."""
    return mp3[mp3.index(mp3[:2], 36) :]
