"""Frontends, which map a waveform to `frames bins`."""

from typing import TYPE_CHECKING

from .._lazy import make_lazy

make_lazy(__name__)

if TYPE_CHECKING:
    from .clap import CLAPLogMel as CLAPLogMel
    from .kaldi import KaldiFbank as KaldiFbank
    from .kaldi import ast_fbank as ast_fbank
    from .kaldi import beats_fbank as beats_fbank
    from .kaldi import wespeaker_fbank as wespeaker_fbank
    from .leaf import LEAF as LEAF
    from .log_mel import LogMel as LogMel
    from .log_mel import audax_log_mel as audax_log_mel
    from .log_mel import efficientat_log_mel as efficientat_log_mel
    from .log_mel import librosa_log_mel as librosa_log_mel
    from .log_mel import torchaudio_log_mel as torchaudio_log_mel
    from .log_mel import torchlibrosa_log_mel as torchlibrosa_log_mel
    from .pcen import PCEN as PCEN
    from .perch import PerchLogMel as PerchLogMel
    from .sincnet import SincNet as SincNet
    from .speechbrain import SpeechBrainFbank as SpeechBrainFbank
    from .wav2vec import Wav2Vec as Wav2Vec
    from .whisper import WhisperLogMel as WhisperLogMel
