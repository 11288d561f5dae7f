"""EfficientNet-B0 on Speech Commands v2: the data and the numbers of `speech_commands_resnet18`.

    audax-train prepare path/to/speech_commands/manifest.csv speech_commands --sample-rate 16000
    audax-train speech_commands_efficientnet_b0 speech_commands runs/speech_commands_efficientnet_b0

Data: http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz, listed in a CSV of `files,labels,split`.
"""

from dataclasses import replace

from . import audioset_efficientnet_b0, speech_commands_resnet18

recipe = replace(
    speech_commands_resnet18.recipe,
    name="speech_commands_efficientnet_b0",
    model=audioset_efficientnet_b0.recipe.model,
)
