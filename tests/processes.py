"""Processes of tests: their environment, and what they print."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def environment(**variables):
    """This process's variables and these, but none of the Hub's; compiled programs are shared with it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return inherited | {"PYTHONPATH": str(ROOT)} | variables


def run_python(code, *arguments, **variables):
    """What a fresh process prints as JSON."""
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)
