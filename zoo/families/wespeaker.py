"""WeSpeaker's ResNets, Wang et al., 2023, arXiv:2210.17016, by pyannote.audio: recognises speakers.

Weights: https://huggingface.co/pyannote/wespeaker-voxceleb-resnet34-LM (CC-BY-4.0), a Lightning checkpoint.
Beside its arrays it has objects of pyannote, which the zoo ignores. `config.yaml` beside it describes the model.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._entry import Checkpoint, Entry
from .._files import line
from .._foreign import ENCODER, Recognition, WeightFile, page, refuse
from .._rules import COUNTER, NORM, Rule, dense, drop, time_first, under

FILE = "pytorch_model.bin"
PAPER = "https://arxiv.org/abs/2210.17016"
WINDOW = 10.0  # seconds; trained on 2 s and then on 6 s, but used on whole turns of a speaker
DEPTHS = {"34": (3, 4, 6, 3), "152": (3, 8, 36, 3), "221": (6, 16, 48, 3), "293": (10, 20, 64, 3)}

ENTRIES = (
    Entry(
        name="wespeaker_resnet34",
        frontend={"type": "wespeaker_fbank", "sample_rate": 16000},
        network={"type": "wespeaker_resnet34"},
        window=WINDOW,
        license="CC-BY-4.0",
        source="https://huggingface.co/pyannote/wespeaker-voxceleb-resnet34-LM",
        paper=PAPER,
        metrics=(
            {
                "dataset": "VoxCeleb1, cleaned test",
                "metric": "EER",
                "value": 0.00797,
                "source": "the publisher, Wespeaker/wespeaker-voxceleb-resnet34-LM, without normalisation of scores",
            },
        ),
        checkpoint=Checkpoint(repo="pyannote/wespeaker-voxceleb-resnet34-LM", table="wespeaker", file=FILE),
        **ENCODER,
    ),
)


def _kernel(kernel: np.ndarray) -> np.ndarray:
    """Converts a torch kernel over freq and time to the zoo's layout; a kernel of one place becomes a linear map."""
    return dense(kernel.swapaxes(2, 3))


SHORTCUT = (
    Rule(r"shortcut\.0\.weight", "shortcut.conv.weight", dense),
    Rule(rf"shortcut\.1\.{NORM}", r"shortcut.norm.\1"),
)
BODY = (
    Rule(r"conv1\.weight", "stem.weight", time_first),
    Rule(rf"bn1\.{NORM}", r"norm.\1"),
    *(
        rule
        for stage in range(4)
        for rule in under(
            rf"layer{stage + 1}\.(\d+)\.",
            rf"stages.{stage}.\1.",
            Rule(r"conv(\d)\.weight", r"conv\1.weight", _kernel),
            Rule(rf"bn(\d)\.{NORM}", r"norm\1.\2"),
            *(SHORTCUT if stage else ()),
        )
    ),
    Rule(r"seg_1\.(weight|bias)", r"embed.\1"),
)
RULES = {
    "wespeaker": (COUNTER, *under(r"state_dict\.resnet\.", "network.", *BODY)),
    "wespeaker_authors": (
        COUNTER,
        *under(r"(?:state_dict\.)?(?:resnet\.)?", "network.", *BODY),
        *under(
            r"(?:state_dict\.)?(?:resnet\.)?layer1\.(\d+)\.", r"network.stages.0.\1.", *SHORTCUT
        ),  # in networks of bottlenecks
        Rule(r"projection\..+", drop),  # the classifier of WeSpeaker's training
    ),
}
READS = "pyannote.audio's WeSpeakerResNet34, 152, 221 and 293"
LETTERS, LISTS, LARGEST = 1 << 16, 100, 10**9  # the largest config.yaml, and the largest number in it
WITHOUT_CONFIG = {"config.yaml": {"model": {"_target_": "pyannote.audio"}}}


def describes(config: Mapping[str, Any]) -> bool:
    """Whether the config is that of pyannote.audio, whose `config.yaml` has the model under "model"."""
    inner = config.get("model")
    target = inner.get("_target_") if isinstance(inner, Mapping) else None
    return isinstance(target, str) and target.startswith("pyannote.audio")


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry of the model in pyannote.audio's `config.yaml`, with the defaults of pyannote's classes."""
    settings = _model(name, read("config.yaml"))
    target = settings.pop("_target_", None)
    if not isinstance(target, str):
        raise ValueError(f"{name} has a config.yaml without the _target_ of its model, the name of a class: add it.")
    match = re.fullmatch(r"pyannote\.audio\.models\.embedding\.(?:wespeaker\.)?WeSpeakerResNet(\d+)", target)
    if match is None or match[1] not in DEPTHS:
        kinds = ", ".join(f"WeSpeakerResNet{depth}" for depth in DEPTHS)
        raise ValueError(f"{name} holds a {line(target)} by its config.yaml: the zoo reads {kinds} of pyannote.audio.")
    frontend = _frontend(f"{name}, in its config.yaml,", settings)
    bottleneck = match[1] != "34"
    network = {
        "type": "WeSpeaker",
        "depths": DEPTHS[match[1]],
        "bins": frontend["bins"],
        "bottleneck": bottleneck,
    }
    return Entry(
        name=name,
        frontend=frontend,
        network=network,
        window=WINDOW,
        source=page(name),
        paper=PAPER,
        checkpoint=Checkpoint(repo=name, table="wespeaker_authors" if bottleneck else "wespeaker", file=FILE),
        **ENCODER,
    )


def _model(name: str, text: str) -> dict[str, Any]:
    """The settings of the model in a `config.yaml`.

    Aliases of YAML are refused: no such file has them, and they could make a few letters expand without limit.
    """
    import yaml  # a dependency of huggingface_hub; imported late, because the import takes long

    lists = text.count("[") + text.count("{")
    if len(text) > LETTERS or lists > LISTS:
        raise ValueError(
            f"{name} has a config.yaml of {len(text)} letters with {lists} brackets, and the zoo reads {LETTERS} with "
            f"{LISTS}: shorten it."
        )
    try:
        tokens = yaml.scan(text, yaml.SafeLoader)
        aliases = any(isinstance(token, yaml.AnchorToken | yaml.AliasToken) for token in tokens)
        settings = None if aliases else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{name} has a config.yaml that is not YAML ({line(str(error))}).") from None
    if aliases:
        raise ValueError(f"{name} has a config.yaml with anchors (&) or aliases (*): write out what they stand for.")
    settings = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(settings, dict):
        raise ValueError(f"{name} has a config.yaml without the settings of a model of pyannote.audio.")
    return dict(settings)


def _frontend(name: str, settings: Mapping[str, Any], rate: int = 16000, bins: int = 80) -> dict[str, Any]:
    """The frontend that pyannote.audio's settings describe."""
    if odd := [key for key in settings if not isinstance(key, str)]:
        raise ValueError(f"{name} has the field {line(repr(odd[0]))}, and fields have names: take it out.")
    refuse(
        name,
        settings,
        sources="sample_rate num_mel_bins frame_length frame_shift",
        extras="task",
        choices={"num_channels": (1,), "dither": (0.0,), "use_energy": (False,), "round_to_power_of_two": (True,)}
        | {"snip_edges": (True,), "fbank_centering_span": (None,)}
        | {"window_type": ("hamming", "hanning", "povey", "rectangular", "blackman")},
    )
    numbers = {"sample_rate": rate, "num_mel_bins": bins, "frame_length": 25.0, "frame_shift": 10.0}
    numbers |= {field: value for field, value in settings.items() if field in numbers}
    for field, value in numbers.items():
        kinds, what = (int, "a whole number") if field in ("sample_rate", "num_mel_bins") else (int | float, "a number")
        if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value <= LARGEST:
            raise ValueError(f"{name} has the {field} {line(repr(value))}: write {what} above 0 and up to {LARGEST}.")
    return {
        "type": "wespeaker_fbank",
        "sample_rate": numbers["sample_rate"],
        "bins": numbers["num_mel_bins"],
        "frame_length": float(numbers["frame_length"]),
        "frame_shift": float(numbers["frame_shift"]),
        "window": settings.get("window_type", "hamming"),
    }


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises pyannote's `pytorch_model.bin` and WeSpeaker's own file, of any depth and width.

    If a file has settings beside its arrays, they describe its features. Otherwise the number of bins is 80, and the
    arrays must agree with it.
    """
    shapes = file.shapes
    prefix = next((each for each in ("state_dict.resnet.", "resnet.", "") if f"{each}seg_1.weight" in shapes), None)
    if prefix is None or f"{prefix}layer1.0.conv1.weight" not in shapes:
        return None
    if f"{prefix}seg_2.weight" in shapes:
        raise ValueError(f"{file.path} has two layers behind its statistics, seg_1 and seg_2: the zoo has one.")
    first, depths = shapes[f"{prefix}conv1.weight"], []
    while depth := file.count(f"{prefix}layer{len(depths) + 1}.{{}}.conv1.weight"):
        depths.append(depth)
    width, statistics = shapes[f"{prefix}seg_1.weight"]
    bottleneck = f"{prefix}layer1.0.conv3.weight" in shapes
    outputs = first[0] * 2 ** (len(depths) - 1) * (4 if bottleneck else 1)
    bins = statistics // (2 * outputs) * 2 ** (len(depths) - 1)
    parameters = file.settings.get("hyper_parameters")
    settings = parameters if isinstance(parameters, dict) else {}
    frontend = _frontend(str(file.path), settings, file.sample_rate or 16000, bins)
    network = {"type": "WeSpeaker", "depths": tuple(depths), "width": width, "channels": first[0]}
    network |= {"bins": frontend["bins"], "bottleneck": bottleneck}
    entry = Entry(file.path.name, frontend, network, window=WINDOW, paper=PAPER, **ENCODER)
    release = ENTRIES[0]
    if (network["depths"], width, first[0], bins) == (DEPTHS["34"], 256, 32, 80):
        entry = entry.replace(license=release.license, source=release.source)
    return Recognition(entry, RULES["wespeaker_authors"])
