"""The small CLAP of its tests: its entry, its words and its tokenizer."""

import numpy as np
import tokenizers

import zoo

RATE, SECONDS = 8000, 0.4
FRONTEND = {
    "type": "CLAPLogMel",
    "sample_rate": RATE,
    "bins": 16,
    "n_fft": 256,
    "hop_length": 80,
    "f_max": 4000.0,
    "seconds": SECONDS,
}
NETWORK = {
    "type": "HTSAT",
    "depths": (1, 2),
    "heads": (1, 2),
    "embedding": 4,
    "bins": 16,
    "frames": 41,
    "image": 32,
    "patch": 2,
    "window": 4,
    "projection": 6,
}
TEXT = {"type": "RoBERTa", "hidden": 8, "depth": 1, "heads": 2, "words": 24, "positions": 40, "projection": 6}
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "dog", "rain", "siren", "this", "is", "sound", "of", "."]
ENTRY = zoo.Entry(
    name="small",
    frontend=FRONTEND,
    network=NETWORK,
    model={"type": "CLAP", "text": TEXT},
    classes=0,
    task="contrastive",
    window=SECONDS,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def tokenizer():
    """One word, one token, as RoBERTa's tokenizer puts them between <s> and </s>."""
    result = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    result.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    result.normalizer = tokenizers.normalizers.Lowercase()
    result.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    result.enable_padding(pad_id=1, pad_token="<pad>")
    return result
