"""The peer's side of `gpu.py`: the same networks from timm and transformers under `torch.compile`."""

import contextlib
import os
import time

from gpu_models import COMPARISONS
from gpu_worker import calls, one_line, time_calls


def theirs():
    """Facts about torch, and the functions that a job may name. A network that does not compile runs in eager torch."""
    import timm
    import torch

    device = os.environ.get("BENCHMARK_TORCH_DEVICE", "cuda")  # another device, to try this without a GPU
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} sees no GPU")
    torch.backends.cudnn.benchmark = True
    program = {}

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def prepare(name, batch):
        program.clear()
        torch.compiler.reset()
        kind, network_name = name.split()
        shape = COMPARISONS[name][1]
        if network_name in ("ast_base", "wav2vec2_base"):
            import transformers

            if network_name == "ast_base":
                model = transformers.ASTModel(transformers.ASTConfig())
            else:
                model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config())
            model, maps = model.to(device, torch.bfloat16), torch.randn(batch, *shape, device=device).bfloat16()
        else:
            model = timm.create_model(network_name, in_chans=1, num_classes=0, pretrained=False)
            model = model.to(device, torch.bfloat16).to(memory_format=torch.channels_last)
            maps = torch.randn(batch, 1, *shape, device=device).bfloat16()
            maps = maps.contiguous(memory_format=torch.channels_last)
        model.train(kind == "step")
        network = torch.compile(model, dynamic=False)
        answer = {}

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
            answer["eager"], network = one_line(error), model
            run()
        compile_seconds = time.perf_counter() - start
        program["run"], program["count"] = run, calls(run, 0.5)
        return answer | {"compile_seconds": compile_seconds}

    name = torch.cuda.get_device_name() if device == "cuda" else device
    facts = {"device": name, "torch": torch.__version__, "timm": timm.__version__}
    return facts, {"prepare": prepare, "measure": lambda: time_calls(program)}
