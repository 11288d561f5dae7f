"""`audax-zoo app`: `zoo.app` in a browser."""

import argparse
from collections.abc import Callable

from .._models import DEFAULT


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `command` makes the parser of one."""
    page = command(app, "open a page to try a model", "Drop or record a sound, and see its labels and events.")
    page.add_argument(
        "--model",
        default=DEFAULT,
        metavar="NAME",
        help=f"the first model: a name of `audax-zoo list`, a folder or a Hub repo (default: {DEFAULT})",
    )
    page.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="the address to listen on: 0.0.0.0 admits other machines (default: 127.0.0.1, only this one)",
    )
    page.add_argument("--port", type=int, default=7860, help="the port to listen on (default: 7860)")
    page.add_argument("--max-size", type=float, default=50, metavar="MB", help="the limit of a file (default: 50)")


def app(options: argparse.Namespace) -> int:
    from ..app import serve

    def ready(address: str) -> None:
        print(f"{address} has the page until Ctrl-C ends it.", flush=True)

    serve(options.model, host=options.host, port=options.port, max_size=options.max_size, ready=ready)
    return 0
