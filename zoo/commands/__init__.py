"""The commands of `audax-zoo`. Each module adds its commands to the parser, and imports JAX only when one runs."""

MODULES = {  # the commands of each module
    "models": ("list", "info", "convert", "publish", "verify"),
    "export": ("export",),
    "recordings": ("tag", "embed"),
    "events": ("detect",),
    "search": ("search",),
    "speakers": ("compare",),
    "app": ("app",),
}
