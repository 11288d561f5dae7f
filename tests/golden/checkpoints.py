"""Makes checkpoints.json and checkpoints.npz: names and shapes in the published files, and what timm makes of them.

python tests/golden/checkpoints.py     (torch 2, timm 1, transformers 5)

checkpoints.json holds for each published entry whose repo is not in ../shared/oracles, and for some repos that describe
themselves, every array's name and shape, as its publisher's library writes them. checkpoints.npz holds timm's outputs
with the weights of `seeded`.
"""

import json
import pathlib
import tempfile
import zlib

import numpy as np

AST = {
    "ast_audioset": {"num_labels": 527},
    "ast_speech_commands": {"num_labels": 35, "max_length": 128},
}
TIMM = {
    "timm/convnext_tiny.fb_in1k": (32, 64),  # frames bins
    "timm/efficientnet_b0.ra_in1k": (70, 64),
    "timm/resnet18.a1_in1k": (64, 96),
}
SHAPES_ONLY = ("timm/convnext_nano.in12k_ft_in1k", "timm/efficientnet_b2.ra_in1k", "timm/resnet50.a1_in1k")


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array that its name and shape alone decide, so that no weights need to be stored."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.asarray(7, np.int64)
    values = generator.standard_normal(shape, np.float32)
    if leaf == "running_var":
        return np.exp(0.3 * values)
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return (0.5 + 0.1 * values).astype(np.float32)
    if len(shape) == 1:
        return (0.1 * values).astype(np.float32)
    return values * np.float32(np.prod(shape[1:]) ** -0.5)


def ast_shapes(options):
    """By `save_pretrained`, for the names in memory are others."""
    import safetensors
    from transformers import ASTConfig, ASTForAudioClassification

    with tempfile.TemporaryDirectory() as folder:
        ASTForAudioClassification(ASTConfig(**options)).save_pretrained(folder)
        with safetensors.safe_open(pathlib.Path(folder) / "model.safetensors", "numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def main():
    import timm
    import torch

    shapes, arrays = {name: ast_shapes(options) for name, options in AST.items()}, {}
    for name, size in TIMM.items():
        model = timm.create_model(name.removeprefix("timm/"), pretrained=False).eval()
        shapes[name] = {key: list(leaf.shape) for key, leaf in model.state_dict().items()}
        model.load_state_dict({key: torch.from_numpy(seeded(key, shape)) for key, shape in shapes[name].items()})
        x = seeded(name, size)
        with torch.no_grad():
            features = model.forward_features(torch.from_numpy(x).expand(1, 3, *size))
            embedding, logits = model.forward_head(features, pre_logits=True), model.forward_head(features)
        arrays |= {f"{name}/embedding": embedding[0].numpy(), f"{name}/logits": logits[0].numpy()}
    for name in SHAPES_ONLY:
        model = timm.create_model(name.removeprefix("timm/"), pretrained=False)
        shapes[name] = {key: list(leaf.shape) for key, leaf in model.state_dict().items()}
    path = pathlib.Path(__file__)
    lines = (
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f"{json.dumps(key)}: {json.dumps(shape)}" for key, shape in keys.items())
        + "\n}"
        for name, keys in shapes.items()
    )
    path.with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.savez_compressed(path.with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
