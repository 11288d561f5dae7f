"""Makes ecapa.npz: SpeechBrain's small models with seeded weights, and adds the published files' shapes to
checkpoints.json.

python tests/golden/ecapa.py     (torch 2, speechbrain 1.1, torchaudio)
"""

import json
import pathlib

import numpy as np
import torch
from seeded import uniform, values
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.lobes.models.Xvector import Classifier as DeepClassifier
from speechbrain.processing.features import InputNormalization

FOLDER = pathlib.Path(__file__).parent
SMALL = {"attention_channels": 6, "se_channels": 5, "res2net_scale": 4}
CASES = {  # of the features, the network, and the classifier with its width
    "language": (
        {"n_mels": 20},
        {"channels": [16, 16, 16, 16, 24], "lin_neurons": 10} | SMALL,
        (DeepClassifier, {"input_shape": [None, None, 10], "lin_blocks": 1, "lin_neurons": 9, "out_neurons": 4}),
    ),
    "shallow": (
        {"n_mels": 24, "sample_rate": 8000, "n_fft": 256, "f_min": 50, "f_max": 3800},
        {"channels": [12, 12, 12, 20], "kernel_sizes": [3, 5, 3, 1], "dilations": [1, 2, 5, 1], "lin_neurons": 7}
        | {"global_context": False}
        | SMALL,
        (Classifier, {"input_size": 7, "out_neurons": 3}),
    ),
}
PUBLISHED = {
    "ecapa_voxceleb": (80, 192, Classifier(192, out_neurons=7205)),
    "ecapa_voxlingua107": (60, 256, DeepClassifier([None, None, 256], lin_neurons=512, out_neurons=107)),
}


def fill(name, module):
    """Seeds every array by its key."""
    state = module.state_dict()
    for key, array in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        state[key] = torch.from_numpy(values(f"{name}.{key}", tuple(array.shape)))
    module.load_state_dict(state)
    return module.eval()


def shapes(name, module):
    return {f"{name}.{key}": list(array.shape) for key, array in module.state_dict().items()}


def main():
    golden = {}
    for case, (fbank, network, (make, options)) in CASES.items():
        features, norm = Fbank(**fbank), InputNormalization(norm_type="sentence", std_norm=False)
        network = fill("embedding_model", ECAPA_TDNN(fbank["n_mels"], **network))
        classifier = fill("classifier", make(**options))
        golden[f"{case}/shapes"] = json.dumps(shapes("embedding_model", network) | shapes("classifier", classifier))
        for samples in (4000, 7777):
            wave = (0.5 * uniform(f"wave of {samples}", (samples,))).astype(np.float32)
            with torch.no_grad():
                fbank_out = features(torch.from_numpy(wave)[None])
                x = norm(fbank_out, torch.ones(1))
                embedding = network(x)
                logits = classifier(embedding)
            parts = {"features": x[0], "embedding": embedding[0, 0], "logits": logits.reshape(-1)}
            golden |= {f"{case}/{samples}/{part}": each.numpy() for part, each in parts.items()}
    np.savez_compressed(FOLDER / "ecapa.npz", **golden)

    path = FOLDER / "checkpoints.json"
    known = json.loads(path.read_text())
    for name, (bins, width, classifier) in PUBLISHED.items():
        network = ECAPA_TDNN(bins, channels=[1024, 1024, 1024, 1024, 3072], lin_neurons=width)
        known[name] = shapes("embedding_model", network) | shapes("classifier", classifier)
    text = json.dumps(known, indent=0).replace("[\n", "[").replace(",\n", ", ")
    path.write_text(text.replace('], "', '],\n"').replace('}, "', '},\n"').replace("\n]", "]") + "\n")


if __name__ == "__main__":
    main()
