"""Frontends from a waveform to `frames bins`."""

from .log_mel import LogMel as LogMel
from .log_mel import audax_log_mel as audax_log_mel
from .log_mel import librosa_log_mel as librosa_log_mel
from .log_mel import torchaudio_log_mel as torchaudio_log_mel
