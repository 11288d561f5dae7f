"""Audio features: pure functions from samples to frames x bins, and back.

    samples --frame, window, FFT--> stft --|.|^power--> spectrogram --@ fbanks--> mel --log--> log-mel --DCT--> mfcc

Names, parameters, defaults and numbers are those of `torch.stft`, `torchaudio.functional`, `torchaudio.transforms` and
`torchaudio.compliance.kaldi`, with three exceptions:

- the layout is time x frequency, `*batch frames freqs` (torch: `*batch freqs frames`);
- a window is a name ("hann", "hamming", "blackman", "bartlett", "kaiser", "povey", "rectangular") or an array of
  `win_length` numbers known at trace time; a named one is periodic unless `periodic=False`;
- samples are floating-point. float16 and bfloat16 samples are converted to float32, and the result is float32, because
  a sum over a window needs the digits; float64 stays float64; integers raise a TypeError.

All functions accept any leading batch axes, run under `jit`, `vmap` and `grad`, and have finite gradients at silence.
Sizes and names that make no sense raise a ValueError. Windows, filters and kernels are NumPy tables, computed once.
"""

from ._kaldi import kaldi_fbank as kaldi_fbank
from ._mel import amplitude_to_db as amplitude_to_db
from ._mel import apply_melscale as apply_melscale
from ._mel import mel_spectrogram as mel_spectrogram
from ._mel import mfcc as mfcc
from ._mel_filters import melscale_fbanks as melscale_fbanks
from ._resample import resample as resample
from ._spectrum import istft as istft
from ._spectrum import spectrogram as spectrogram
from ._spectrum import stft as stft
from ._time import compute_deltas as compute_deltas
from ._time import pcen as pcen
from ._time import phase_vocoder as phase_vocoder
