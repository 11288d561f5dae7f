"""`audax-zoo`: the zoo from the shell. Its commands are in `zoo/commands/`."""

import argparse
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence

from ._cache import keep_programs
from .commands import MODULES
from .commands._signals import signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    The code is 0 for success, 1 if some files could not be read or some models failed their check, 2 if the command
    cannot be carried out, and 128 plus the number of the signal if a signal ended it.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if sys.stdout is None:  # closed
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name outside its encoding loses no result
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with signals.handled(), warnings.catch_warnings():
            warnings.showwarning = lambda text, *_, **__: print(f"audax-zoo: {text}", file=sys.stderr)
            options = _parser(arguments[:1]).parse_args(arguments)
            keep_programs()
            return options.run(options)
    except BrokenPipeError:  # the reader of our output, for example `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"audax-zoo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("audax-zoo: interrupted", file=sys.stderr)
        return 128 + (signals.number or signal.SIGINT)


def _parser(first: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command that the first argument names, or of all commands if it names none."""
    parser = argparse.ArgumentParser(prog="audax-zoo", description="Pretrained audio networks in JAX.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable, help: str, description: str = "") -> argparse.ArgumentParser:
        subparser = subparsers.add_parser(
            run.__name__.strip("_"), help=help, description=f"{help[0].upper()}{help[1:]}. {description}"
        )
        subparser.set_defaults(run=run)
        return subparser

    modules = [module for module, names in MODULES.items() if not {*first}.isdisjoint(names)]
    for module in modules or MODULES:
        importlib.import_module(f".commands.{module}", __package__).add(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
