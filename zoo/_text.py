"""Texts for models with words: the tokenizer, the embeddings of texts, and zero-shot classifiers."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from audax_eqx.models import Classifier
from audax_eqx.networks import RoBERTa

from . import families
from ._entry import LENGTH, Entry, checked_labels
from ._files import TOKENIZER, line, read_text
from ._limits import check_entry
from ._register import Model
from ._source import Source
from ._wave import check_process

SHORTEST = 16  # tokens of the smallest program; the others take powers of 2
BATCH = 8  # texts that a program takes at a time; a single text has its own program


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a model, from its `tokenizer.json`, which is read when the first text comes.

    Two tokenizers of the same `source` are equal. A pickled copy contains the file's text.
    """

    source: str
    text: Callable[[], str] = dataclasses.field(compare=False, repr=False)

    def __reduce__(self) -> tuple:
        return _with_text, (self.source, self.text())

    @staticmethod
    def of(source: Source) -> "Tokenizer | None":
        """The tokenizer of a model; None for a folder without one. A repo's is downloaded at the first text."""
        if source.folder is None:
            place = f"{source.name} {source.commit}"
            return Tokenizer(place, functools.cache(lambda: read_text(source.path(TOKENIZER))))
        try:
            text = read_text(source.path(TOKENIZER))
        except FileNotFoundError:
            return None
        return _with_text(text, text)  # the text is the source: a changed file is another tokenizer


def _with_text(source: str, text: str) -> Tokenizer:
    return Tokenizer(source, lambda: text)


def has_words(model: Any) -> bool:
    """Whether a model has a tower for texts."""
    return getattr(model, "text", None) is not None


def with_tokenizer(model: Model, tokenizer: Tokenizer | None) -> Model:
    """The model with `tokenizer` as its tokenizer."""
    return eqx.tree_at(lambda tree: tree.tokenizer, model, tokenizer, is_leaf=lambda leaf: leaf is None)


def embed_texts(model: Any, entry: Entry, texts: Any) -> Float[Array, "texts width"]:
    """What `Pretrained.embed_text` returns.

    Texts are padded to one of a few lengths and processed in batches of one of two sizes, so that few programs are
    compiled.
    """
    check_process(entry.name)
    _check_words(model, entry)
    tokens = _tokens(model, entry, _checked_texts(texts))
    values = np.zeros((len(tokens), model.text.width), np.float32)
    sizes = np.array([min(max(SHORTEST, 1 << (len(each) - 1).bit_length()), model.text.most_tokens) for each in tokens])
    for size in np.unique(sizes):
        (places,) = np.nonzero(sizes == size)
        batch = BATCH if len(places) > 1 else 1
        for start in range(0, len(places), batch):
            rows = places[start : start + batch]
            token_rows, lengths = np.full((batch, size), model.text.padding, np.int32), np.ones(batch, np.int32)
            for row, place in enumerate(rows):
                token_rows[row, : len(tokens[place])], lengths[row] = tokens[place], len(tokens[place])
            values[rows] = np.asarray(_embedded(model.text, token_rows, lengths))[: len(rows)]
    return jax.device_put(values)


def zero_shot(
    model: Any, state: eqx.nn.State, entry: Entry, labels: Any, prompt: str
) -> tuple[Classifier, eqx.nn.State, Entry]:
    """A classifier for labels in words. Its head holds the embeddings of the texts: `prompt` with each label."""
    _check_words(model, entry)
    names = checked_labels(labels)
    if not isinstance(prompt, str) or prompt.count("{}") != 1:
        raise ValueError(
            f'prompt is a text with {{}} once, in place of the label, such as "This is a sound of {{}}.", got '
            f"{line(repr(prompt))}."
        )
    if len(prompt) > LENGTH:
        raise ValueError(f"prompt is too long: it has {len(prompt)} letters, and up to {LENGTH} are allowed.")
    weight = embed_texts(model, entry, [prompt.replace("{}", name) for name in names])
    scale = float(np.exp(np.asarray(model.audio_logit_scale, np.float64)))
    zero_shot_entry = entry.finetuned(labels=names, name=f"{entry.name.rpartition('/')[2]}_zero_shot")
    zero_shot_entry = zero_shot_entry.replace(
        model={"type": "Classifier", "cosine": scale}, source=f"{entry.name}, by the prompt {line(repr(prompt), 100)}"
    )
    check_entry(zero_shot_entry, f"The classifier to make of {entry.name}")
    classifier = Classifier(
        model.frontend, model.network, len(names), cosine=scale, task="multiclass", key=jax.random.key(0)
    )
    classifier = eqx.tree_at(lambda tree: tree.head.weight, classifier, weight)
    return eqx.nn.inference_mode(classifier), state, zero_shot_entry


@eqx.filter_jit
def _embedded(
    text: RoBERTa, tokens: Int[Array | np.ndarray, "texts tokens"], lengths: Int[Array | np.ndarray, " texts"]
) -> Float[Array, "texts width"]:
    return jax.vmap(lambda row, length: text(row, length=length).astype(np.float32))(tokens, lengths)


def _check_words(model: Any, entry: Entry) -> None:
    if not has_words(model):
        example = next(name for name, each in families.entries().items() if "text" in each.model)
        raise ValueError(f"{entry.name} has no words: load a model of sounds and words for texts, such as {example}.")


def _checked_texts(texts: Any) -> tuple[str, ...]:
    """The texts as a tuple. Raises TypeError for anything but texts, and ValueError for no texts or an empty one."""
    if isinstance(texts, str):
        texts = (texts,)
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"embed_text takes a text or a list of texts, got {line(repr(texts))}.")
    texts = tuple(texts)
    if odd := [each for each in texts if not isinstance(each, str)]:
        raise TypeError(f"embed_text takes a text or a list of texts, got a list with {line(repr(odd[0]))}.")
    if not texts or not all(each.strip() for each in texts):
        raise ValueError(
            f"embed_text takes texts with words in them, got {'no text' if not texts else 'an empty one'}: leave empty "
            "texts out."
        )
    return texts


def _tokens(model: Any, entry: Entry, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, cut to the model's length. Raises ValueError if they are not the model's tokens."""
    if model.tokenizer is None:
        raise ValueError(
            f"{entry.name} has no {TOKENIZER}, which makes tokens of texts: put it into the model's folder, and load "
            "it again."
        )
    words = len(model.text.word_embedding)
    encoder = _encoder(model.tokenizer.text(), model.text.most_tokens, entry.name)
    rows = []
    for text in texts:
        try:
            rows.append(encoder.encode(text).ids)
        except Exception as error:  # a library in Rust, without error classes of its own
            raise ValueError(f"{entry.name} cannot make tokens of {line(repr(text))} ({line(str(error))}).") from None
        if not rows[-1] or max(rows[-1]) >= words:
            raise ValueError(
                f"The {TOKENIZER} of {entry.name} makes tokens up to {max(rows[-1], default=0)} of {line(repr(text))}, "
                f"and the model has {words} words: they do not belong together."
            )
    return rows


@functools.lru_cache(maxsize=4)
def _encoder(text: str, max_tokens: int, name: str) -> Any:
    import tokenizers  # slow to import, and only texts need it

    try:
        encoder = tokenizers.Tokenizer.from_str(text)
        encoder.no_padding()
        encoder.enable_truncation(max_tokens)
    except Exception as error:  # as above
        raise ValueError(
            f"The {TOKENIZER} of {name} is not a tokenizer ({line(str(error))}): fetch or copy it again."
        ) from None
    return encoder
