"""The type checker behind jaxtyping's import hook: beartype, for which a whole number is a float too."""

from beartype import BeartypeConf, beartype

typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))
