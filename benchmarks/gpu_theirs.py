"""The peer of `gpu.py`: the same networks by timm and transformers under `torch.compile`."""

import contextlib
import os
import time

from gpu_models import PEERED
from gpu_worker import calls, clocked, one_line


def theirs():
    """The same for timm under torch.compile; with eager torch where it does not compile."""
    import timm
    import torch

    device = os.environ.get("BENCHMARK_TORCH_DEVICE", "cuda")  # to try this out without a GPU
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} sees no GPU")
    torch.backends.cudnn.benchmark = True
    ready = {}

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def prepare(name, batch):
        ready.clear()
        torch.compiler.reset()
        kind, network_name = name.split()
        shape = PEERED[name][1]
        if network_name in ("ast_base", "wav2vec2_base"):
            import transformers

            of = transformers
            model = of.ASTModel(of.ASTConfig()) if len(shape) == 2 else of.Wav2Vec2Model(of.Wav2Vec2Config())
            model, maps = model.to(device, torch.bfloat16), torch.randn(batch, *shape, device=device).bfloat16()
        else:
            model = timm.create_model(network_name, in_chans=1, num_classes=0, pretrained=False)
            model = model.to(device, torch.bfloat16).to(memory_format=torch.channels_last)
            maps = torch.randn(batch, 1, *shape, device=device).bfloat16()
            maps = maps.contiguous(memory_format=torch.channels_last)
        model.train(kind == "step")
        network = torch.compile(model, dynamic=False)
        measured = {}

        def step():
            model.zero_grad()
            y = network(maps)
            (y if torch.is_tensor(y) else y[0]).float().square().mean().backward()

        def run(count=1):
            with contextlib.nullcontext() if kind == "step" else torch.inference_mode():
                for _ in range(count):
                    step() if kind == "step" else network(maps)
            wait()

        start = time.perf_counter()
        try:
            run()
        except Exception as error:
            measured["eager"], network = one_line(error), model
            run()
        spent = time.perf_counter() - start
        ready["run"], ready["count"] = run, calls(run, 0.5)
        return measured | {"compile_seconds": spent}

    name = torch.cuda.get_device_name() if device == "cuda" else device
    known = {"device": name, "torch": torch.__version__, "timm": timm.__version__}
    return known, {"prepare": prepare, "timed": lambda: clocked(ready)}
