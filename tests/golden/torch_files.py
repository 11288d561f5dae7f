"""Makes torch_files.npz: small files that torch writes, `file/NAME`, and what is in them, `array/NAME/KEY`.

python tests/golden/torch_files.py     (torch 2.13)

bfloat16 is kept as the int16 of the same bits. Files in `REFUSED` hold what is no dense array.
"""

import argparse
import collections
import io
import pathlib
import sys
import types

import numpy as np
import torch

generator = torch.Generator().manual_seed(14)
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint64")


def numbers(*shape):
    return torch.randn(*shape, generator=generator)


def everything():
    """A checkpoint of training: every dtype, every kind of view, and settings beside them."""
    base, module = numbers(4, 6), torch.nn.BatchNorm1d(3)
    tagged = torch.nn.Parameter(numbers(2))
    tagged.tag = "decay"
    optimiser = torch.optim.AdamW(module.parameters())
    module(numbers(5, 3)).square().sum().backward()
    optimiser.step()
    return {
        "model": module.state_dict(),
        "dtypes": {name: (100 * numbers(3).abs()).to(getattr(torch, name)) for name in DTYPES}
        | {
            "bool": numbers(5) > 0,
            "complex64": torch.complex(numbers(2), numbers(2)),
            "complex128": torch.ones(2) * 1j,
        },
        "views": [base, base[1:3, ::2], base.T, base[2], base[:1].expand(3, 6), base.as_strided((5, 3), (4, 1), 1)],
        "shapes": (torch.tensor(3.5), torch.zeros(0), torch.zeros(2, 0, 3), numbers(1, 1, 1)),
        "parameters": {
            "plain": torch.nn.Parameter(numbers(2)),
            "tagged": tagged,
            "buffer": torch.nn.Buffer(numbers(2)),
        },
        "shared": {"one": module.weight.data, "two": module.weight.data},
        "optimiser": optimiser.state_dict(),
        7: numbers(1),
        "numpy": {
            "array": np.arange(6, dtype=np.int16).reshape(2, 3),
            "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "big": np.arange(3, dtype=">f4"),
            "bool": np.array([True, False]),
            "texts": np.array(["a", "b"]),
            "objects": np.array([None, "b"], object),
        },
        "best": np.float64(0.5),
        "settings": argparse.Namespace(rate=0.1, device=torch.device("cpu"), dtype=torch.float32, size=torch.Size([2])),
        "counts": collections.defaultdict(int, epoch=3, steps=1 << 70),
        "notes": (
            "text",
            b"bytes",
            None,
            True,
            {1, 2},
            frozenset({3}),
            pathlib.PurePosixPath("a"),
            [1.5, -2, 300, 1 << 20],
        ),
    }


def lightning():
    """What Lightning writes beside the weights: objects of its own classes."""
    name = "pytorch_lightning.utilities.parsing"
    for part in ("pytorch_lightning", "pytorch_lightning.utilities", name):
        sys.modules[part] = types.ModuleType(part)
    kind = type("AttributeDict", (dict,), {"__module__": name})
    sys.modules[name].AttributeDict = kind
    settings = kind(rate=0.1)
    settings.weights = numbers(2)
    return {
        "state_dict": {"weight": numbers(3)},
        "hyper_parameters": settings,
        "version": torch.torch_version.TorchVersion("2"),
    }


def saved(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def scripted():
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), stream)
    return stream.getvalue()


def leaves(value, name=""):
    """The arrays and their keys."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        yield name, (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()
    elif isinstance(value, np.ndarray) and value.dtype.kind not in "UO":
        yield name, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from leaves(child, f"{name}.{index}" if name else str(index))


def main():
    content, plain = everything(), {"weight": numbers(3), "step": 3}
    row = {key: value for key, value in content.items() if key not in ("dtypes", "parameters")}
    row["dtypes"] = {name: array for name, array in content["dtypes"].items() if name not in ("uint16", "uint64")}
    read = {"zip": (content, {}), "row": (row, {"_use_new_zipfile_serialization": False})}
    read |= {f"protocol{number}": (plain, {"pickle_protocol": number}) for number in (2, 3, 4, 5)}
    read |= {"alone": (numbers(2, 2), {}), "list": ([numbers(1), {"a": [numbers(2)]}], {}), "empty": ({}, {})}
    files = {name: saved(each, **options) for name, (each, options) in read.items()}
    arrays = {name: dict(leaves(torch.load(io.BytesIO(files[name]), weights_only=False))) for name in read}
    stubbed = lightning()
    files["lightning"], arrays["lightning"] = (
        saved(stubbed),
        {"state_dict.weight": stubbed["state_dict"]["weight"].numpy()},
    )
    refused = {
        "sparse": {"a": torch.eye(3).to_sparse()},
        "csr": {"a": torch.eye(3).to_sparse_csr()},
        "quantized": {"a": torch.quantize_per_tensor(numbers(3), 0.1, 0, torch.qint8)},
        "conjugated": {"a": torch.complex(numbers(2), numbers(2)).conj()},
        "module": torch.nn.ReLU(),
        "half_complex": {"a": torch.zeros(2, dtype=torch.complex32)},
    }
    files |= {name: saved(each) for name, each in refused.items()} | {"script": scripted()}
    result = {f"file/{name}": np.frombuffer(data, np.uint8) for name, data in files.items()}
    result |= {f"array/{file}/{key}": each for file, inside in arrays.items() for key, each in inside.items()}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **result)


if __name__ == "__main__":
    main()
