"""Adapts all models of the zoo to the audio tasks of MTEB, which form MAEB, Assadi et al., 2026, arXiv:2602.16008:

    import mteb
    import zoo

    mteb.evaluate(zoo.mteb.load_model("convnext_audioset"), mteb.get_benchmark("MAEB(v1, audio-only)"))

Models are named as for `zoo.load`. `pip install "mteb[audio]>=2.8"`, the extra `mteb`, installs the suite and torch,
which loads the sounds; the zoo computes the embeddings. On a GPU XLA_PYTHON_CLIENT_PREALLOCATE=false leaves room for
both.

The zoo resamples the sounds, and `zoo.embed` processes them completely, window by window.
"""

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

import numpy as np
from jaxtyping import Float

from ._fingerprint import fingerprint, parameters
from ._load import load
from ._models import DEFAULT
from ._pretrained import Pretrained
from ._recordings import embed
from ._text import has_words


class MtebModel:
    """A `zoo.Pretrained`, `clip`, as an encoder of MTEB; `mteb_model_meta` is MTEB's description of it."""

    def __init__(self, clip: Pretrained, mteb_model_meta: Any):
        self.clip, self.mteb_model_meta = clip, mteb_model_meta

    def encode(self, inputs: Any, **options: Any) -> Float[np.ndarray, "inputs width"]:
        """The embeddings of a DataLoader's sounds, its column "audio", or of its texts, "text", in float32.

        If sounds come with texts, the embeddings of both are added, as in MTEB's wrapper of CLAP. `options` are the
        task's, and are ignored. Raises ValueError for texts if the model has no words, for inputs that are neither
        sounds nor texts, and as `zoo.embed` does.
        """
        columns, name = list(inputs.dataset.features), self.clip.entry.name
        if not {"audio", "text"} & set(columns):
            raise ValueError(f"{name} takes sounds, and the task has {', '.join(columns)}: take a task of audio.")
        if "text" in columns and not has_words(self.clip.model):
            raise ValueError(
                f"{name} has no words for the texts of this task: take a task with audio only, or a model with words."
            )
        inputs.collate_fn = _by_column
        parts = []
        if "audio" in columns:
            results = embed(self.clip, _values(inputs, "audio"))
            parts.append(np.concatenate([result.values for result in results]))
        if "text" in columns:
            parts.append(np.asarray(self.clip.embed_text(list(_values(inputs, "text")))))
        return np.sum(parts, axis=0)


def load_model(model_name: str | os.PathLike = "", revision: str | None = None) -> MtebModel:
    """The model of a name, a folder or a Hub repo, as `zoo.load` takes them; without one, the packaged model.

    MTEB stores results by a model's name and revision. The revision is made from the weights, so that no model gets the
    results of another. Raises what `zoo.load` raises, and ModuleNotFoundError without MTEB.
    """
    try:
        encoder, meta, types = map(
            importlib.import_module, ("mteb.models.abs_encoder", "mteb.models.model_meta", "mteb.types")
        )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"zoo.mteb needs {error.name}: pip install 'mteb[audio]>=2.8', or the extra mteb.", name=error.name
        ) from None
    clip = load(model_name or DEFAULT, revision=revision)
    entry, license = clip.entry, (clip.entry.license or "").lower()
    fields = {
        "name": f"audax-eqx/{entry.name.replace('/', '_')}",
        "revision": fingerprint(clip),
        "n_parameters": parameters(clip),
        "embed_dim": clip.model.network.width,
        "license": license if license in get_args(types.Licenses) else None,
        "reference": entry.source if (entry.source or "").startswith("http") else None,
        "framework": ["JAX"],
        "similarity_fn_name": "cosine",
        "modalities": ["audio", "text"] if has_words(clip.model) else ["audio"],
        "languages": [],
        "open_weights": True,
        "use_instructions": False,
        "max_tokens": None,
        "memory_usage_mb": None,
        "n_embedding_parameters": None,
        "public_training_code": None,
        "public_training_data": None,
        "release_date": None,
        "training_datasets": None,
    }
    return type("MtebModel", (MtebModel, encoder.AbsEncoder), {})(clip, meta.ModelMeta(loader=None, **fields))


def _by_column(rows: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """A batch by column, without stacking, because sounds may have any length and rate."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _values(batches: Iterable[Mapping[str, list[Any]]], column: str) -> Iterator[Any]:
    """The values of a column, one after the other."""
    for batch in batches:
        yield from map(_sound, batch[column]) if column == "audio" else batch[column]


def _sound(value: Any) -> Any:
    """A sound as `zoo.read` takes it. A decoder of torchcodec has keys but is not a mapping; a table without a feature
    for sound has the samples as a list."""
    if isinstance(value, Mapping) and value.get("array") is None:
        return value
    return np.asarray(value["array"]), int(value["sampling_rate"])
