"""Small models of speech that tell padding from sound, and all that they make of a wave."""

import functools

import equinox as eqx
from golden.seeded import fill

from audax_eqx.frontends import Wav2Vec, WhisperLogMel
from audax_eqx.models import Classifier, Encoder, WeightedLayers
from audax_eqx.networks import Wav2Vec2, Whisper, XVector


@eqx.filter_jit
def outputs(model, state, wave, length=None):
    """Everything that a model makes of a wave: features, layers, feature map, embedding and output."""
    x, options = model.listen(wave, length=length), model.valid(wave.size, length)
    layers = [each[:, 0] for each in model.network.layers(x, state, **options)[0]]
    last = model.network.features(x, state, **options)[0]
    embedding = model.network.pool_map(last, **options)
    output = model.logits(embedding) if isinstance(model, Classifier) else model(wave, state, length=length)[0]
    return x, layers, last[:, 0], embedding, output


SMALL = {"widths": (8, 8, 8), "kernels": (10, 3, 2), "strides": (5, 2, 2)}  # a frame sees 30 samples, every 20
BODY = {"bins": 8, "kernel": 8, "groups": 2}


def speech_classifier(key):
    network = WeightedLayers(Wav2Vec2(8, 2, 2, **BODY, buckets=8, max_distance=20, key=key))
    return Classifier(Wav2Vec(**SMALL, key=key), network, 3, projection=5, key=key)


def speech_encoder(key, **options):
    frontend = Wav2Vec(**SMALL, norm="layer", bias=True, key=key)
    return Encoder(frontend, Wav2Vec2(8, 2, 2, **BODY, **options, key=key), key=key)


def x_vectors(key):
    network = XVector(Wav2Vec2(8, 1, 2, **BODY, key=key), 4, widths=(8,) * 5, key=key)
    return Encoder(Wav2Vec(**SMALL, normalize=False, key=key), network, outputs=3, key=key)


def whisper(key, make=Encoder, **options):
    frontend, network = WhisperLogMel(16000, bins=8, total_frames=60), Whisper(8, 2, 2, bins=8, steps=30, key=key)
    return make(frontend, network, **options, key=key)


MODELS = {
    "base": speech_classifier,
    "large": functools.partial(speech_encoder, norm_first=True),
    "data2vec": functools.partial(speech_encoder, position_layers=3),
    "x-vector": x_vectors,
    "whisper": whisper,
    "whisper classifier": functools.partial(whisper, make=Classifier, classes=3),
    "whisper weighted": lambda key: Encoder(
        WhisperLogMel(16000, bins=8, total_frames=60), WeightedLayers(Whisper(8, 1, 2, bins=8, key=key)), key=key
    ),
}


@functools.cache
def seeded(name):
    model, state = fill(MODELS[name])
    return eqx.nn.inference_mode(model), state
