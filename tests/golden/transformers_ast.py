"""Makes transformers_ast.npz: transformers' AST, small and with seeded weights, and its feature extractor.

python tests/golden/transformers_ast.py     (torch 2, torchaudio 2, transformers 5)

(A file `ast.py` would hide Python's own module from the scripts in this folder.)
"""

import json
import pathlib
import tempfile

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

CONFIGS = {
    "no bias": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    | {"qkv_bias": False, "layer_norm_eps": 1e-3, "patch_size": 8, "frequency_stride": 5, "time_stride": 6}
    | {"num_mel_bins": 40, "max_length": 100},
    "tanh": {"hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 80}
    | {"hidden_act": "gelu_new", "patch_size": 16, "frequency_stride": 16, "time_stride": 8}
    | {"num_mel_bins": 32, "max_length": 50},
    "relu": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8}
    | {"hidden_act": "relu", "patch_size": 4, "frequency_stride": 4, "time_stride": 4}
    | {"num_mel_bins": 20, "max_length": 30},
    "silu": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 8, "intermediate_size": 32}
    | {"hidden_act": "silu", "patch_size": 5, "frequency_stride": 7, "time_stride": 3}
    | {"num_mel_bins": 33, "max_length": 64},
}
OTHER_LENGTHS = (40, 171)  # of the first configuration, whose 100 frames make 16 patches in time
EXTRACTORS = {
    "filled up": {"max_length": 60},
    "cut": {"max_length": 20, "num_mel_bins": 40, "mean": -6.0, "std": 3.0},
    "not normalised": {"sampling_rate": 8000, "num_mel_bins": 24, "max_length": 30, "do_normalize": False},
}


def seeded(config, generator):
    model = ASTForAudioClassification(ASTConfig(**config, num_labels=3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            centre, gain = (1.0, 0.3) if parameter.ndim == 1 else (0.0, 2 * parameter.shape[1:].numel() ** -0.5)
            values = centre + gain * generator.standard_normal(parameter.shape)
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    return model


def run(model, x):
    with torch.no_grad():
        output = model.audio_spectrogram_transformer(torch.from_numpy(x)[None])
    return {"x": x, "tokens": output.last_hidden_state[0].numpy(), "embedding": output.pooler_output[0].numpy()}


def main():
    generator = np.random.default_rng(0)
    arrays = {}
    for name, config in CONFIGS.items():
        model = seeded(config, generator)
        x = generator.standard_normal((config["max_length"], config["num_mel_bins"])).astype(np.float32)
        arrays[f"{name}/config"] = np.array(json.dumps(config))
        arrays |= {f"{name}/{key}": value for key, value in run(model, x).items()}
        with tempfile.TemporaryDirectory() as folder:  # the Hub's names, which are not those in memory
            model.save_pretrained(folder)
            weights = safetensors.numpy.load_file(pathlib.Path(folder) / "model.safetensors")
        arrays |= {f"{name}/weights/{key}": value for key, value in weights.items()}

    name, config = next(iter(CONFIGS.items()))
    weights = {key: torch.from_numpy(arrays[f"{name}/weights/{key}"].copy()) for key in weights_of(arrays, name)}
    positions = "audio_spectrogram_transformer.embeddings.position_embeddings"
    tokens, grid = weights[positions].split([2, 7 * 16], dim=1)
    for frames in OTHER_LENGTHS:
        time = (frames - config["patch_size"]) // config["time_stride"] + 1
        maps = torch.nn.functional.interpolate(grid.mT.unflatten(2, (7, 16)), (7, time), mode="bilinear")
        weights[positions] = torch.cat([tokens, maps.flatten(2).mT], dim=1)
        with tempfile.TemporaryDirectory() as folder:
            ASTConfig(**config | {"max_length": frames}, num_labels=3).save_pretrained(folder)
            safetensors.torch.save_file(
                {key: value.contiguous() for key, value in weights.items()},
                pathlib.Path(folder) / "model.safetensors",
                {"format": "pt"},
            )
            model = ASTForAudioClassification.from_pretrained(folder).eval()
        x = generator.standard_normal((frames, config["num_mel_bins"])).astype(np.float32)
        arrays |= {f"{frames} frames/{key}": value for key, value in run(model, x).items()}

    arrays["wave"] = 0.1 * generator.standard_normal(6000).astype(np.float32)
    for name, options in EXTRACTORS.items():
        extractor = ASTFeatureExtractor(**options)
        output = extractor(arrays["wave"], sampling_rate=extractor.sampling_rate)
        arrays |= {f"{name}/options": np.array(json.dumps(options)), f"{name}/features": output["input_values"][0]}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


def weights_of(arrays, name):
    prefix = f"{name}/weights/"
    return [key.removeprefix(prefix) for key in arrays if key.startswith(prefix)]


if __name__ == "__main__":
    main()
