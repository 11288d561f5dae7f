"""Makes wespeaker.npz: pyannote.audio's WeSpeaker with seeded weights, and files that pyannote.audio would write; adds
the published file's shapes to checkpoints.json.

python tests/golden/wespeaker.py     (torch 2, torchaudio, pyannote.audio 4.0)
"""

import io
import json
import pathlib

import numpy as np
import torch
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.embedding.wespeaker import BaseWeSpeakerResNet, WeSpeakerResNet34
from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, Bottleneck, ResNet
from seeded import uniform, values

FOLDER = pathlib.Path(__file__).parent
CASES = {  # of the features and the network
    "basic": ({"num_mel_bins": 24}, (BasicBlock, [1, 2, 1, 1], 3, 24, 7)),
    "bottleneck": (
        {"num_mel_bins": 16, "sample_rate": 8000, "frame_length": 32.0, "frame_shift": 12.0, "window_type": "povey"},
        (Bottleneck, [1, 1, 2, 1], 2, 16, 5),
    ),
}
SAMPLES = (2000, 8000, 12345)


def model(options, network):
    """A small one with seeded arrays, as pyannote.audio makes them."""
    made = BaseWeSpeakerResNet(**options)
    block, depths, channels, bins, width = network
    made.resnet = ResNet(block, depths, m_channels=channels, feat_dim=bins, embed_dim=width, two_emb_layer=False)
    state = made.state_dict()
    for key, array in state.items():
        if not key.endswith("num_batches_tracked"):
            state[key] = torch.from_numpy(values(key, tuple(array.shape)))
    made.load_state_dict(state)
    made.specifications = Specifications(problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0)
    return made.eval()


def checkpoint(made, trained):
    """What pyannote.audio writes of a model: one that it took over from WeSpeaker, or one that it trained."""
    content = {"state_dict": made.state_dict()}
    if trained:
        content |= {"epoch": 3, "global_step": 70, "hyper_parameters": dict(made.hparams)}
    made.on_save_checkpoint(content)
    content["pytorch-lightning_version"] = "2.6.0"
    content["pyannote.audio"]["versions"]["torch"] = torch.__version__  # an object, which version 3 of pyannote had
    stream = io.BytesIO()
    torch.save(content, stream)
    return np.frombuffer(stream.getvalue(), np.uint8)


def main():
    golden = {}
    for case, (options, network) in CASES.items():
        made = model(options, network)
        golden[f"{case}/file"] = checkpoint(made, trained=case == "bottleneck")
        for samples in SAMPLES:
            wave = torch.from_numpy((0.5 * uniform(f"wave of {samples}", (samples,))).astype(np.float32))
            with torch.no_grad():
                features = made.compute_fbank(wave[None, None])
                frames = made.resnet.forward_frames(features)
                embedding = made(wave[None, None])
            parts = {"features": features[0], "frames": frames[0].permute(2, 1, 0), "embedding": embedding[0]}
            golden |= {f"{case}/{samples}/{part}": each.numpy() for part, each in parts.items()}
    np.savez_compressed(FOLDER / "wespeaker.npz", **golden)

    path = FOLDER / "checkpoints.json"
    known = json.loads(path.read_text())
    published = WeSpeakerResNet34().state_dict()
    known["wespeaker_resnet34"] = {f"state_dict.{key}": list(array.shape) for key, array in published.items()}
    text = json.dumps(known, indent=0).replace("[\n", "[").replace(",\n", ", ")
    path.write_text(text.replace('], "', '],\n"').replace('}, "', '},\n"').replace("\n]", "]") + "\n")


if __name__ == "__main__":
    main()
