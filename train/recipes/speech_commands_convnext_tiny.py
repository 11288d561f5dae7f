"""ConvNeXt-Tiny on Speech Commands v2: the data and the numbers of `speech_commands_resnet18`.

    audax-train prepare path/to/speech_commands/manifest.csv speech_commands --sample-rate 16000
    audax-train speech_commands_convnext_tiny speech_commands runs/speech_commands_convnext_tiny

Data: http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz, listed in a CSV of `files,labels,split`.
"""

from dataclasses import replace

from . import audioset_convnext_tiny, speech_commands_resnet18

recipe = replace(
    speech_commands_resnet18.recipe,
    name="speech_commands_convnext_tiny",
    model=audioset_convnext_tiny.recipe.model,
)
