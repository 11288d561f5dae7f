"""Makes beats.npz: what avex 1.4.0 (https://pypi.org/project/avex, torch 2.13) makes of two recordings with BEATs of
random weights, and three files as the authors save theirs.

python tests/golden/beats.py ../shared/oracles

- `NAME/file`: the bytes of a file `{"cfg", "model", "label_dict"}`. The files "beats" and "beats_finetuned" lie in
  `../shared/oracles/NAME/BEATs_small.pt`.
- `fbank/SOUND`: every fifth frame. `NAME/SOUND/first`, `/tokens`, `/logits`: tokens before the first block and behind
  all, logits before the sigmoid.
"""

import io
import pathlib
import sys

import numpy as np
import torch
from avex.models.beats import BEATs, BEATsConfig

COMMON = {
    "input_patch_size": 16,
    "embed_dim": 16,
    "encoder_layers": 2,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 40,
    "encoder_attention_heads": 3,
    "conv_pos": 8,
    "conv_pos_groups": 3,
    "relative_position_embedding": True,
    "num_buckets": 12,
    "max_distance": 30,
    "gru_rel_pos": True,
    "deep_norm": False,
    "layer_norm_first": False,
    "activation_fn": "gelu",
}
MODELS = {
    "tuned": {"deep_norm": True, "finetuned_model": True, "predictor_class": 3},
    "first": {"embed_dim": 24, "layer_norm_first": True, "conv_bias": True, "activation_fn": "relu", "conv_pos": 7},
    "plain": {
        "relative_position_embedding": False,
        "gru_rel_pos": False,
        "activation_fn": "gelu_accurate",
        "input_patch_size": 8,
    },
}
LABELS = {2: "/m/0bt9lr", 0: "/m/09x0r", 1: "/t/dd00003"}


def recording(samples, seed):
    wave = np.random.default_rng(seed).standard_normal(samples)
    wave[samples // 3 : samples // 2] *= 1e-4
    return (0.1 * wave).astype(np.float32)


def model(cfg, state):
    made = BEATs(BEATsConfig(**cfg)).eval()
    made.load_state_dict(state, strict=False)  # the window and the filters of the frontend are avex's own
    return made


def randomize(made):
    for name, parameter in made.named_parameters():
        scale = 0.3 if parameter.ndim < 2 else 1.0 if "original0" in name else parameter[0].numel() ** -0.5
        norm = parameter.ndim < 2 and name.endswith("weight")
        parameter.data = scale * torch.randn_like(parameter) + norm


def outputs(made, sound, wave):
    x = torch.tensor(wave)[None]
    fbank = made.preprocess(x)
    patches = made.layer_norm(made.patch_embedding(fbank[None]).flatten(2).transpose(1, 2))
    patches = patches if made.post_extract_proj is None else made.post_extract_proj(patches)
    _, layers = made.encoder.extract_features(patches, None, tgt_layer=0)
    found = {"first": layers[0][0][:, 0], "tokens": made.extract_features(x, feature_only=True)[0][0]}
    if made.predictor is not None:
        found["logits"] = made.extract_features(x)[0][0]
    return {f"fbank/{sound}": fbank[0, ::5]}, {f"{sound}/{name}": value for name, value in found.items()}


def main(oracles):
    torch.manual_seed(1)
    arrays, models = {}, {}
    for name, cfg in MODELS.items():
        models[name] = model(COMMON | cfg, {})
        randomize(models[name])
        state = {key: value for key, value in models[name].state_dict().items() if not key.startswith("fbank.")}
        content = {"cfg": COMMON | cfg, "model": state} | ({"label_dict": LABELS} if name == "tuned" else {})
        torch.save(content, file := io.BytesIO())
        arrays[f"{name}/file"] = np.frombuffer(file.getvalue(), np.uint8)
    for name in ("beats", "beats_finetuned"):
        content = torch.load(oracles / name / "BEATs_small.pt", weights_only=True)
        models[name] = model(content["cfg"], content["model"])
    for name, made in models.items():
        for sound, wave in (("second", recording(16000, 0)), ("odd", recording(7001, 1))):
            with torch.no_grad():
                common, own = outputs(made, sound, wave)
            arrays |= common | {f"{name}/{each}": value for each, value in own.items()}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
