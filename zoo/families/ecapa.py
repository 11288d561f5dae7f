"""ECAPA-TDNN, Desplanques et al., 2020, arXiv:2005.07143, by SpeechBrain: recognises speakers and languages.

Weights: https://huggingface.co/speechbrain/spkrec-ecapa-voxceleb and speechbrain/lang-id-voxlingua107-ecapa
(Apache-2.0), two torch files each. `hyperparams.yaml` describes the model, and `label_encoder.txt` has its labels.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .._entry import Checkpoint, Entry
from .._files import read_text
from .._foreign import Recognition, Shapes, WeightFile, page, refuse
from .._rules import COUNTER, NORM, Rule, dense, taps_first, under
from .._speechbrain import encoded_labels, hyperparams
from .._weights import Arrays

FILES = ("embedding_model.ckpt", "classifier.ckpt")
LABELS = "label_encoder.txt"
PAPER = "https://arxiv.org/abs/2005.07143"
SCALE = 30.0  # of the cosines in SpeechBrain's loss for speakers
WINDOW = 10.0  # seconds; trained on 3 s, but used on whole recordings, of which few are longer than 10 s


def _frontend(rate: int, bins: int, fbank: Mapping[str, Any]) -> dict[str, Any]:
    """The frontend for SpeechBrain's Fbank, which gives windows and hops in milliseconds."""
    return {
        "type": "SpeechBrainFbank",
        "sample_rate": rate,
        "bins": bins,
        "n_fft": fbank.get("n_fft", 400),
        "win_length": round(rate / 1000 * fbank.get("win_length", 25)),
        "hop_length": round(rate / 1000 * fbank.get("hop_length", 10)),
        "f_min": fbank.get("f_min", 0.0),
        "f_max": fbank.get("f_max"),
    }


ENTRIES = (
    Entry(
        name="ecapa_voxceleb",
        frontend=_frontend(16000, 80, {}),
        network={"type": "ecapa_1024"},
        model={"type": "Classifier", "cosine": SCALE},
        classes=7205,
        task="multiclass",
        window=WINDOW,
        license="Apache-2.0",
        source="https://huggingface.co/speechbrain/spkrec-ecapa-voxceleb",
        paper=PAPER,
        metrics=(
            {
                "dataset": "VoxCeleb1, cleaned test",
                "metric": "EER",
                "value": 0.0069,
                "source": "the publisher, speechbrain/spkrec-ecapa-voxceleb, release of 2021-03-05",
            },
        ),
        checkpoint=Checkpoint(
            repo="speechbrain/spkrec-ecapa-voxceleb", table="ecapa", file=FILES, label_file="config.json"
        ),
    ),
    Entry(
        name="ecapa_voxlingua107",
        frontend=_frontend(16000, 60, {}),
        network={"type": "ecapa_1024", "bins": 60, "width": 256},
        model={"type": "Classifier", "hidden": (512,)},
        classes=107,
        task="multiclass",
        window=WINDOW,
        license="Apache-2.0",
        source="https://huggingface.co/speechbrain/lang-id-voxlingua107-ecapa",
        paper=PAPER,
        metrics=(
            {
                "dataset": "VoxLingua107 development set",
                "metric": "error rate",
                "value": 0.067,
                "source": "the publisher, speechbrain/lang-id-voxlingua107-ecapa",
            },
        ),
        checkpoint=Checkpoint(
            repo="speechbrain/lang-id-voxlingua107-ecapa", table="ecapa", file=FILES, label_file="config.json"
        ),
    ),
)

LAYER = (  # the rules of a frame layer
    Rule(r"conv\.conv\.weight", "conv.weight", taps_first),
    Rule(r"conv\.conv\.bias", "conv.bias"),
    Rule(rf"norm\.norm\.{NORM}", r"norm.\1"),
)


def _linear(key: str, name: str) -> tuple[Rule, ...]:
    """The rules of a convolution with one tap."""
    return Rule(rf"{key}\.weight", f"{name}.weight", dense), Rule(rf"{key}\.bias", f"{name}.bias")


RULES = {
    "ecapa": (
        COUNTER,
        *under(
            r"(?:embedding_model\.)?",
            "network.",
            *under(r"blocks\.0\.", "blocks.0.", *LAYER),
            *under(
                r"blocks\.(\d+)\.",
                r"blocks.\1.",
                *under(r"tdnn1\.", "reduce.", *LAYER),
                *under(r"res2net_block\.blocks\.(\d+)\.", r"res2net.layers.\1.", *LAYER),
                *under(r"tdnn2\.", "expand.", *LAYER),
                *_linear(r"se_block\.conv1\.conv", "excite.reduce"),
                *_linear(r"se_block\.conv2\.conv", "excite.expand"),
            ),
            *under(r"mfa\.", "aggregate.", *LAYER),
            *under(r"asp\.tdnn\.", "pool.hidden.", *LAYER),
            *_linear(r"asp\.conv\.conv", "pool.weigh"),
            Rule(rf"asp_bn\.norm\.{NORM}", r"norm.\1"),
            *_linear(r"fc\.conv", "embed"),
        ),
        Rule(r"classifier\.weight", "head.weight"),
        Rule(rf"classifier\.norm\.norm\.{NORM}", r"hidden.norm.\1"),
        Rule(r"classifier\.DNN\.block_(\d+)\.linear\.w\.(weight|bias)", r"hidden.layers.\1.linear.\2"),
        Rule(rf"classifier\.DNN\.block_(\d+)\.norm\.norm\.{NORM}", r"hidden.layers.\1.norm.\2"),
        Rule(r"classifier\.out\.w\.(weight|bias)", r"head.\1"),
    )
}
READS = "SpeechBrain's ECAPA_TDNN"
WITHOUT_CONFIG = {"hyperparams.yaml": {"speechbrain_interface": "EncoderClassifier"}}
# Fields of hyperparams.yaml: the entry is made of the first, no output depends on the second, the others are fixed
OPTIONS = {
    "compute_features": (
        "sample_rate n_mels n_fft win_length hop_length f_min f_max",
        "left_frames right_frames requires_grad",
        {"!new": ("speechbrain.lobes.features.Fbank",), "deltas": (False,), "context": (False,)}
        | {"filter_shape": ("triangular",), "param_change_factor": (1.0,), "param_rand_factor": (0.0,)},
    ),
    "mean_var_norm": (
        "",
        "avoid_padding_norm update_until_epoch epsilon",
        {"!new": ("speechbrain.processing.features.InputNormalization",), "norm_type": ("sentence",)}
        | {"std_norm": (False,), "mean_norm": (True,)},
    ),
    "embedding_model": (
        "channels kernel_sizes dilations lin_neurons attention_channels res2net_scale se_channels global_context",
        "input_size device dropout",
        {"!new": ("speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN",), "activation": ("torch.nn.ReLU",)}
        | {"groups": ([1, 1, 1, 1, 1],)},
    ),
    "classifier": (
        "out_neurons lin_neurons lin_blocks",
        "input_size input_shape device",
        {"!new": tuple(f"speechbrain.lobes.models.{each}.Classifier" for each in ("ECAPA_TDNN", "Xvector"))}
        | {"activation": ("torch.nn.LeakyReLU",)},
    ),
}


def describes(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is SpeechBrain's, which gives only the purpose of the model."""
    return "speechbrain_interface" in config


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry of the model in SpeechBrain's `hyperparams.yaml`, with the defaults of SpeechBrain's classes."""
    settings = hyperparams(name, read("hyperparams.yaml"))
    if missing := [part for part in OPTIONS if part != "classifier" and not isinstance(settings.get(part), dict)]:
        raise ValueError(f"{name} has a hyperparams.yaml without {' and '.join(missing)}, which an ECAPA needs.")
    for part, (sources, extras, choices) in OPTIONS.items():
        refuse(f"{name}, in its {part},", settings.get(part, {}), sources=sources, extras=extras, choices=choices)
    if settings["mean_var_norm"].get("std_norm", True) or settings["mean_var_norm"].get("norm_type") != "sentence":
        raise ValueError(f"{name} does not normalise features by the mean of each recording: the zoo has only that.")
    fbank, network = settings["compute_features"], settings["embedding_model"]
    bins = fbank.get("n_mels", 40)
    *widths, outputs = network.get("channels", (512, 512, 512, 512, 1536))
    if len(set(widths)) > 1:
        raise ValueError(f"{name} has blocks of the widths {widths}: the zoo's ECAPA has one width for all.")
    entry = Entry(
        name=name,
        frontend=_frontend(fbank.get("sample_rate", 16000), bins, fbank),
        network={
            "type": "ECAPA",
            "width": network.get("lin_neurons", 192),
            "channels": widths[0],
            "outputs": outputs,
            "bins": bins,
            "taps": tuple(network.get("kernel_sizes", (5, 3, 3, 3, 1))),
            "dilations": tuple(network.get("dilations", (1, 2, 3, 4, 1))),
            "parts": network.get("res2net_scale", 8),
            "squeezed": network.get("se_channels", 128),
            "hidden": network.get("attention_channels", 128),
            "context": network.get("global_context", True),
        },
        model={"type": "Encoder"},
        classes=0,
        task="embedding",
        window=WINDOW,
        source=page(name),
        paper=PAPER,
        checkpoint=Checkpoint(repo=name, table="ecapa", file=FILES[:1]),
    )
    classifier = settings.get("classifier")
    if classifier is None:
        return entry
    blocks = classifier.get("lin_blocks")
    hidden = None
    if "Xvector" in classifier["!new"]:
        hidden = (classifier.get("lin_neurons", 512),) * (1 if blocks is None else blocks)
    elif blocks:
        raise ValueError(f"{name} has lin_blocks {blocks} in its classifier: the zoo has 0 in front of cosines.")
    return _with_classes(entry, classifier.get("out_neurons", 1211), hidden, _labels(name, read))


def _labels(name: str, read: Callable[[str], str]) -> tuple[str, ...]:
    """The labels in the file beside the model; empty if there is no such file."""
    try:
        return encoded_labels(name, read(LABELS))
    except FileNotFoundError:
        return ()


def _with_classes(entry: Entry, classes: int, hidden: tuple[int, ...] | None, labels: tuple[str, ...]) -> Entry:
    """The entry with SpeechBrain's classifier: one of cosines, or one with hidden layers of these widths."""
    head = {"cosine": SCALE} if hidden is None else {"hidden": hidden}
    return entry.replace(
        model={"type": "Classifier"} | head,
        classes=classes,
        task="multiclass",
        labels=labels if len(labels) == classes else (),
        checkpoint=entry.checkpoint and Checkpoint(repo=entry.checkpoint.repo, table="ecapa", file=FILES),
    )


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises SpeechBrain's `embedding_model.ckpt`, with the `classifier.ckpt` of the same folder if there is one.

    `label_encoder.txt` has the labels of the classifier. The dilations are those of the paper.
    """
    shapes = file.shapes
    if not {"blocks.0.conv.conv.weight", "mfa.conv.conv.weight", "asp.conv.conv.weight", "fc.conv.weight"} <= set(
        shapes
    ):
        return None
    blocks = range(1, file.count("blocks.{}."))
    first, last = shapes["blocks.0.conv.conv.weight"], shapes["mfa.conv.conv.weight"]
    inner = [shapes[f"blocks.{block}.res2net_block.blocks.0.conv.conv.weight"] for block in blocks]
    network = {
        "type": "ECAPA",
        "width": shapes["fc.conv.weight"][0],
        "channels": first[0],
        "outputs": last[0],
        "bins": first[1],
        "taps": (first[2], *(each[2] for each in inner), last[2]),
        "dilations": (1, *(block + 1 for block in blocks), 1),
        "parts": first[0] // inner[0][0],
        "squeezed": shapes["blocks.1.se_block.conv1.conv.weight"][0],
        "hidden": shapes["asp.conv.conv.weight"][1],
        "context": shapes["asp.tdnn.conv.conv.weight"][1] > last[0],
    }
    rate = 16000 if file.sample_rate is None else file.sample_rate
    entry = Entry(
        name="ecapa",
        frontend=_frontend(rate, first[1], {}),
        network=network,
        model={"type": "Encoder"},
        classes=0,
        task="embedding",
        window=WINDOW,
        paper=PAPER,
    )
    classifier_path = file.path.with_name(FILES[1])
    if file.path.name != FILES[0] or not classifier_path.is_file():
        return Recognition(_licensed(entry), RULES["ecapa"])
    classes, hidden = _classifier(Arrays(classifier_path).shapes)
    labels = _labels(str(file.path.parent), lambda name: read_text(file.path.with_name(name)))
    return Recognition(_licensed(_with_classes(entry, classes, hidden, labels)), RULES["ecapa"], files=FILES)


def _licensed(entry: Entry) -> Entry:
    """The entry with the licence and the source of the published model with the same arrays, if there is one."""
    sizes = ("width", "channels", "outputs", "bins")
    for each in ENTRIES:
        release = {"width": 192, "channels": 1024, "outputs": 3072, "bins": 80} | dict(each.network)
        if all(release[size] == entry.network[size] for size in sizes) and entry.classes in (0, each.classes):
            return entry.replace(license=each.license, source=each.source)
    return entry


def _classifier(shapes: Shapes) -> tuple[int, tuple[int, ...] | None]:
    """The number of classes in a file of SpeechBrain's classifier, and the widths of its hidden layers, if any."""
    if "out.w.weight" not in shapes:
        return shapes["weight"][0], None
    layers = sum(key.endswith(".linear.w.weight") for key in shapes)
    return shapes["out.w.weight"][0], tuple(shapes[f"DNN.block_{layer}.linear.w.weight"][0] for layer in range(layers))
