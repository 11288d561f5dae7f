"""Export of a model to one file for other programs: StableHLO runs with jax alone, ONNX in the runtimes of ONNX."""

import contextlib
import os
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.export
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from audax_eqx._portable import portable

from ._files import line
from ._pretrained import Pretrained, embedding, frames, output, scores
from ._wave import check_process, check_window
from ._weights import atomic

Values = Literal["scores", "logits", "embedding", "frames"]
PROGRAMS: dict[str, Callable[..., Array]] = {
    "scores": scores,
    "logits": output,
    "embedding": embedding,
    "frames": frames,
}
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SUFFIXES = (".stablehlo", ".onnx")
BOUND = 1e-4  # the allowed difference between ONNX Runtime and JAX, relative to the largest value


def export(
    clip: Pretrained,
    path: str | os.PathLike,
    *,
    values: Values | None = None,
    window: float | None = None,
    batch: int | None = None,
) -> None:
    """Writes the model with its weights as one file.

    The program in the file takes float32 waves of the shape `batch samples` and returns values of the shape
    `batch ...`.

    - `path`: "model.stablehlo" or "model.onnx". `jax.export.deserialize` reads StableHLO on CPU, CUDA, ROCm and TPU.
    - `values`: "scores" (probabilities), "logits" (the result of a call), "embedding" or "frames"; default: "scores"
      for a classifier, "embedding" for other models.
    - `window`: the length of the waves in seconds; default: the model's native length.
    - `batch`: the number of waves; default: any number in StableHLO, and one in ONNX, whose shapes are fixed.

    An ONNX file names its input "wave", and its output has the name that `values` gives. Its metadata are the model's
    name, the sample rate and the labels, one per line. The file is run once, and its output must equal the model's
    within 1e-4 of the largest value. StableHLO has no place for metadata.

    Raises ValueError for another suffix, for scores of a model without classes, for a window that is too short, and for
    a model that the converter to ONNX cannot write. Raises ModuleNotFoundError without the extra `export` or `onnx`,
    and OSError if the file cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"A model is exported as {' or '.join(SUFFIXES)}, got {path.name!r}: name the file so.")
    values = values or ("scores" if clip.entry.classifies else "embedding")
    if values == "scores" and not clip.entry.classifies:
        raise ValueError(f"{clip.entry.name} has no classes and so no scores: export its embedding or frames.")
    if batch is not None and batch < 1:
        raise ValueError(f"batch is the number of waves, at least 1, got {batch}.")
    check_process(clip.entry.name)
    window = clip.entry.window if window is None else window
    check_window(window, clip.model.frontend, clip.entry.name)
    samples = round(window * clip.sample_rate)

    def program(waves: Float[Array, "batch samples"]) -> Array:
        def one(wave):
            return PROGRAMS[values](clip, wave)

        return (
            one(waves[0])[None] if batch == 1 else jax.vmap(one)(waves)
        )  # the program for a batch of one is simpler without vmap

    program.__name__ = program.__qualname__ = clip.entry.name.rpartition("/")[2]
    with atomic(path) as temporary:
        if path.suffix == ".onnx":
            batch = batch or 1
            _write_onnx(temporary, program, clip, values, (batch, samples))
        else:
            _write_stablehlo(temporary, program, batch, samples)


def _write_stablehlo(path: pathlib.Path, program: Callable[..., Array], batch: int | None, samples: int) -> None:
    try:
        import flatbuffers  # noqa: F401, jax.export needs it to serialise
    except ModuleNotFoundError:
        raise ModuleNotFoundError('StableHLO needs flatbuffers: pip install "audax-eqx[export]".') from None
    (count,) = jax.export.symbolic_shape("batch") if batch is None else (batch,)
    shape = jax.ShapeDtypeStruct((count, samples), jnp.float32)
    path.write_bytes(jax.export.export(jax.jit(program), platforms=PLATFORMS)(shape).serialize())


def _write_onnx(
    path: pathlib.Path, program: Callable[..., Array], clip: Pretrained, values: str, shape: tuple[int, int]
) -> None:
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
        import onnx  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ModuleNotFoundError('ONNX needs jax2onnx: pip install "audax-eqx[onnx]".') from None
    name, waves = clip.entry.name, jax.ShapeDtypeStruct(shape, jnp.float32)
    with portable(True), jax.default_matmul_precision("highest"):
        # Traced by JAX alone: the converter traces with functions of its own in place of jax.numpy's
        operations = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(program)(waves))
    try:
        with contextlib.redirect_stdout(None):
            model = jax2onnx.to_onnx(
                lambda wave: operations(wave)[0],
                [waves],
                model_name=name,
                input_names=["wave"],
                output_names=[values],
            )
    except Exception as error:  # the converter raises errors of any kind, mostly for an operator that it lacks
        raise ValueError(
            f"{name} cannot be written as ONNX because jax2onnx does not convert one of its operators "
            f"({type(error).__name__}: {line(str(error))}): write .stablehlo, or install a newer jax2onnx."
        ) from error
    metadata = {"name": name, "sample_rate": str(clip.sample_rate), "values": values}
    if values in ("scores", "logits") and clip.entry.classifies:
        metadata["labels"] = "\n".join(clip.labels)
    onnx.helper.set_model_props(model, metadata)
    model.doc_string = f"{name}: mono waves in [-1, 1] at {clip.sample_rate} Hz to {values}, by audax-eqx."
    onnx.save(model, path)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        reference = np.asarray(jax.jit(program)(wave))
    result = _run(path, wave)
    error = np.abs(result - reference).max() / (np.abs(reference).max() or 1)
    if not error <= BOUND:
        raise ValueError(
            f"{name} as ONNX gives other {values} than the model: they differ by {error:.1e} of the largest, and "
            f"{BOUND:g} is allowed, because jax2onnx converts one of its operators wrongly. Write .stablehlo."
        )


def _run(path: pathlib.Path, wave: np.ndarray) -> Any:
    """The output of ONNX Runtime for the waves."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    onnxruntime.set_default_logger_severity(3)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"wave": wave})[0]
