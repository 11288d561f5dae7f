"""A model's card: the README.md that the Hub uses to list the model, and that describes it to people.

The front matter is YAML in the subset that is also JSON, so saving a model needs neither a YAML writer nor the Hub's
client. A card ends with its own digest. The digest shows whether somebody changed the card; a changed card is kept.
"""

import hashlib
import json
import re
from collections.abc import Mapping

from ._entry import Entry
from ._files import GOLDEN

PLACEHOLDER = "path/to/this/folder"
DATASETS = {"AudioSet": "agkphysics/AudioSet", "SpeechCommands v2": "google/speech_commands"}  # their names on the Hub
LICENSES = {  # the Hub's names of licences; any other licence is "other" with a name
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "unlicense", "cc0-1.0"),
    *("gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "openrail"),
    *("cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
}
DIGEST = "<!-- written by zoo.save, sha256 of the above: {} -->\n"


def card(entry: Entry, parameters: int, *, layout: str = "audax", loss: float | None = None) -> str:
    """The text of README.md. `loss` is the difference between the outputs of float16 weights and of exact weights."""
    facts = front_matter(entry) | ({"library_name": layout} if layout != "audax" else {})
    front = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in facts.items())
    return _signed(f"---\n{front}---\n\n{_body(entry, parameters, loss)}")


def is_generated(content: bytes) -> bool:
    """Whether a README.md is a card that `card` made, and not one that somebody wrote or changed."""
    text = content.decode("utf-8", errors="replace").replace("\r\n", "\n")
    body, _, _ = text.rpartition("<!--")
    return text == _signed(body)


def with_address(content: bytes, address: str) -> bytes:
    """The generated card, changed so that its example loads the model from `address`."""
    body, _, _ = content.decode("utf-8").rpartition("<!--")
    return _signed(body.replace(PLACEHOLDER, address)).encode("utf-8")


def front_matter(entry: Entry) -> dict:
    """The card's metadata, in the Hub's words."""
    task = "audio-classification" if entry.classifies else "feature-extraction"
    facts: dict = {"library_name": "audax-eqx", "pipeline_tag": task, "tags": ["audio", "jax", "equinox"]}
    if entry.license is not None:
        name = hub_license(entry.license)
        facts |= {"license": name} if name in LICENSES else {"license": "other", "license_name": name}
    if datasets := sorted({DATASETS[each["dataset"]] for each in entry.metrics if each["dataset"] in DATASETS}):
        facts["datasets"] = datasets
    if entry.repo is not None:
        facts["base_model"] = entry.repo
    if entry.metrics:
        results = [_result(entry, task, each) for each in entry.metrics]
        facts["model-index"] = [{"name": entry.name, "results": results}]
    return facts


def hub_license(name: str) -> str:
    """The Hub's name of a licence, if the Hub has one."""
    return name.lower() if name.lower() in LICENSES else _slug(name)


def _result(entry: Entry, task: str, measurement) -> dict:
    """One line of the Hub's table of results. The metric's name is followed by the source of the measurement."""
    name = measurement["dataset"]
    metric = {"type": measurement["metric"], "value": measurement["value"]}
    result = {
        "task": {"type": task},
        "dataset": {"type": DATASETS.get(name, _slug(name)), "name": name},
        "metrics": [metric | {"name": f"{measurement['metric']} ({measurement['source']})"}],
    }
    if measurement["source"].startswith("the publisher") and (entry.source or "").startswith("https://"):
        result["source"] = {"name": measurement["source"], "url": entry.source}
    return result


def _body(entry: Entry, parameters: int, loss: float | None) -> str:
    purpose = {
        "multiclass": f"tells which of {entry.classes} sounds a recording is",
        "multilabel": f"tells which of {entry.classes} sounds a recording holds",
        "contrastive": "turns a recording into an embedding, trained without labels",
        "embedding": "turns a recording into an embedding",
    }[entry.task]
    if "text" in entry.model:
        purpose = "turns recordings and texts into embeddings in one space"
    use = "top" if entry.classifies else "embed"
    words = (
        'clip.zero_shot(["rain", "a ticking clock"])  # tells sounds apart in words\n' if "text" in entry.model else ""
    )
    text = f"""# {entry.name}

`{entry.network["type"]}` behind `{entry.frontend["type"]}`, {parameters / 1e6:.3g} million parameters: it {purpose}.
It hears mono waves in [-1, 1] at {entry.sample_rate} Hz, in windows of {entry.window:g} s, and is an
[Equinox](https://docs.kidger.site/equinox/) PyTree for JAX, a model of the zoo audax-eqx.

```python
import zoo

clip = zoo.load("{PLACEHOLDER}")
clip.{use}(zoo.read("sound.wav", clip.sample_rate))
{words}```

`clip.embed(wave)` gives the embedding of a clip, `clip.frames(wave)` embeddings over time, and
`clip.thaw(labels=..., key=...)` a copy to fine-tune. `zoo.load(..., verify=True)` holds what it computes against
`{GOLDEN}`, the output of these weights where they were saved.

## Weights

{f"Source: {entry.source}." if entry.source else "Their source is not stated."} \
{f"Licence: {entry.license}." if entry.license else "Their licence is not stated."}
"""
    if loss is not None:
        text += (
            f"\nThey are rounded to float16: the golden output differs by {loss:.1e} of its largest value from that of "
            "the exact ones.\n"
        )
    if entry.base:
        text += f"\n## Base model\n\n{_base(entry.base)}\n"
    if entry.metrics:
        rows = [[each["dataset"], each["metric"], each["value"], each["source"]] for each in entry.metrics]
        cells = [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in rows]
        text += "\n## Metrics\n\n| dataset | metric | value | whose measurement |\n|---|---|---|---|\n"
        text += "".join(f"| {row} |\n" for row in cells)
    if entry.labels:
        rest = "" if len(entry.labels) <= 100 else f", ... ({len(entry.labels)} in config.json)"
        text += f"\n## Labels\n\n{', '.join(entry.labels[:100])}{rest}\n"
    if entry.paper:
        text += f"\n## Citation\n\nIf you use it, cite the paper of its architecture or its weights: {entry.paper}\n"
    return text + "\n"


def _base(base: Mapping[str, str]) -> str:
    """The known facts about the model that a fine-tuned model started from."""
    repo = f", [{base['repo']}](https://huggingface.co/{base['repo']})" if "repo" in base else ""
    license = f"Its licence: {base['license']}." if "license" in base else "Its licence is not stated."
    paper = f" The paper of its architecture or its weights: {base['paper']}" if "paper" in base else ""
    return f"It started from `{base['name']}`{repo}. {license}{paper}"


def _signed(text: str) -> str:
    return text + DIGEST.format(hashlib.sha256(text.encode("utf-8")).hexdigest())


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "other"
