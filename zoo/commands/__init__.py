"""The commands of `audax-zoo`: each module adds its own to the parser, and imports JAX when one of them runs."""

MODULES = {  # and the commands of each
    "models": ("list", "info", "convert", "publish", "verify"),
    "export": ("export",),
    "recordings": ("tag", "embed"),
    "events": ("detect",),
    "search": ("search",),
    "speakers": ("compare",),
    "app": ("app",),
}
