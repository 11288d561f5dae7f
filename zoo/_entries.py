"""The registry of published weights: literals only. Metrics are the publishers' own."""

from ._entry import Acceptance, Checkpoint, Entry

PANNS_FRONTEND = {
    "type": "LogMel",
    "sample_rate": 32000,
    "bins": 64,
    "n_fft": 1024,
    "hop_length": 320,
    "f_min": 50.0,
    "f_max": 14000.0,
    "mel_scale": "slaney",
    "norm": "slaney",
}
AST_FRONTEND = {"type": "ast_fbank", "sample_rate": 16000}
AST_MODEL = {"type": "Classifier", "norm": 1e-12}
AUDIOSET_LABELS = {"label_file": "class_labels_indices.csv", "label_repo": "topel/ConvNeXt-Tiny-AT"}

ENTRIES = (
    Entry(
        name="convnext_audioset",
        frontend=PANNS_FRONTEND | {"bins": 224},
        network={
            "type": "convnext_tiny",
            "input_norm": 224,
            "stem_padding": (4, 0),
            "pool": "mean_max",
        },
        classes=527,
        task="multilabel",
        window=10.0,
        license="MIT",
        source="https://huggingface.co/topel/ConvNeXt-Tiny-AT",
        paper="https://arxiv.org/abs/2306.00830",
        metrics=(
            {"dataset": "AudioSet", "metric": "mAP", "value": 0.471, "source": "the publisher, topel/ConvNeXt-Tiny-AT"},
        ),
        checkpoint=Checkpoint(
            repo="topel/ConvNeXt-Tiny-AT", table="topel_convnext", label_file="class_labels_indices.csv"
        ),
    ),
    *(
        Entry(
            name=f"panns_{name.lower()}_audioset",
            frontend=PANNS_FRONTEND,
            network={"type": network, "input_norm": 64},
            classes=527,
            task="multilabel",
            window=10.0,
            license="CC-BY-4.0",
            source=f"https://huggingface.co/nicofarr/panns_{name}",  # a mirror of https://zenodo.org/records/3987831
            paper="https://arxiv.org/abs/1912.10211",
            metrics=(
                {
                    "dataset": "AudioSet",
                    "metric": "mAP",
                    "value": value,
                    "source": "the publisher, qiuqiangkong/audioset_tagging_cnn",
                },
            ),
            checkpoint=Checkpoint(
                repo=f"nicofarr/panns_{name}",
                table=table,
                **AUDIOSET_LABELS,
                license="Apache-2.0",
            ),
        )
        for name, network, table, value in (
            ("Cnn14", "cnn14", "panns_cnn", 0.431),
            ("Cnn10", "cnn10", "panns_cnn", 0.380),
            ("ResNet22", "resnet22", "panns_resnet", 0.430),
            ("MobileNetV2", "mobilenet_v2", "panns_mobilenet", 0.383),
        )
    ),
    Entry(
        name="ast_audioset",
        frontend=AST_FRONTEND,
        network={"type": "ast_base"},
        model=AST_MODEL,
        classes=527,
        task="multilabel",
        window=10.24,
        license="BSD-3-Clause",
        source="https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593",
        paper="https://arxiv.org/abs/2104.01778",
        metrics=(
            {
                "dataset": "AudioSet",
                "metric": "mAP",
                "value": 0.4593,
                "source": "the publisher, MIT/ast-finetuned-audioset-10-10-0.4593",
            },
        ),
        checkpoint=Checkpoint(repo="MIT/ast-finetuned-audioset-10-10-0.4593", table="ast", label_file="config.json"),
    ),
    Entry(
        name="ast_speech_commands",
        frontend=AST_FRONTEND | {"frames": 128, "mean": -6.845978, "scale": 11.1309052},
        network={"type": "ast_base", "frames": 128},
        model=AST_MODEL,
        classes=35,
        task="multiclass",
        window=1.0,
        license="BSD-3-Clause",
        source="https://huggingface.co/MIT/ast-finetuned-speech-commands-v2",
        paper="https://arxiv.org/abs/2104.01778",
        metrics=(
            {
                "dataset": "SpeechCommands v2",
                "metric": "accuracy",
                "value": 0.9812,
                "source": "the publisher, MIT/ast-finetuned-speech-commands-v2",
            },
        ),
        checkpoint=Checkpoint(repo="MIT/ast-finetuned-speech-commands-v2", table="ast", label_file="config.json"),
    ),
    *(
        Entry(
            name=f"ced_{size}_audioset",
            frontend={
                "type": "torchaudio_log_mel",
                "sample_rate": 16000,
                "n_fft": 512,
                "hop_length": 160,
                "top_db": 120.0,
            },
            network={"type": f"ced_{size}"},
            model={"type": "Classifier", "norm": 1e-5},
            classes=527,
            task="multilabel",
            window=10.0,
            license="Apache-2.0",
            source=f"https://huggingface.co/mispeech/ced-{size}",
            paper="https://arxiv.org/abs/2308.11957",
            metrics=(
                {
                    "dataset": "AudioSet",
                    "metric": "mAP",
                    "value": precision,
                    "source": f"the publisher, mispeech/ced-{size}",
                },
            ),
            checkpoint=Checkpoint(repo=f"mispeech/ced-{size}", table="ced", **AUDIOSET_LABELS),
        )
        for size, precision in (("tiny", 0.481), ("mini", 0.490), ("small", 0.496), ("base", 0.500))
    ),
    *(
        Entry(
            name=f"timm/{weights}",
            frontend=AST_FRONTEND | {"frames": None},
            network={"type": network},
            classes=1000,
            task="multiclass",
            window=10.0,
            license="Apache-2.0",
            source=f"https://huggingface.co/timm/{weights}",
            paper=paper,
            metrics=(
                {
                    "dataset": "ImageNet-1k",
                    "metric": "top-1 accuracy",
                    "value": accuracy,
                    "source": "the publisher, for pictures: huggingface/pytorch-image-models, results-imagenet.csv",
                },
            ),
            checkpoint=Checkpoint(repo=f"timm/{weights}", table=table),
        )
        for weights, network, table, accuracy, paper in (
            ("convnext_tiny.fb_in1k", "convnext_tiny", "timm_convnext", 0.82698, "https://arxiv.org/abs/2201.03545"),
            ("resnet18.a1_in1k", "resnet18", "timm_resnet", 0.73158, "https://arxiv.org/abs/2110.00476"),
            (
                "efficientnet_b0.ra_in1k",
                "efficientnet_b0",
                "timm_efficientnet",
                0.77694,
                "https://arxiv.org/abs/1905.11946",
            ),
        )
    ),
)

ACCEPTANCE = {
    "convnext_audioset": Acceptance(  # the model card's example
        repo="topel/ConvNeXt-Tiny-AT",
        file="f62-S-v2swA_200000_210000.wav",
        classes=(0, 137, 138, 139, 151, 506),
        threshold=0.25,
    ),
    "ast_audioset": Acceptance(  # the integration test of transformers
        repo="datasets/nielsr/audio-spectogram-transformer-checkpoint",
        file="sample_audio.flac",
        logits=(-0.8760, -7.0042, -8.6602),
    ),
}
