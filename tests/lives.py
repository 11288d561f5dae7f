"""Processes of `audax-train` that may be killed: forks of one, which loads TensorFlow and JAX for all of them."""

import multiprocessing
import os
import pathlib
import sys

import jax
import pytest

from train.__main__ import main

ROOT = pathlib.Path(__file__).parents[1]
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["train.__main__", "tensorflow"])


def run(words, environment, log):
    """Runs the command in a process that has not asked JAX for its devices yet, with its output in a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.update(environment)
    jax.config.update("jax_compilation_cache_dir", environment["JAX_COMPILATION_CACHE_DIR"])
    sys.exit(main(words))


def fork(words, environment, log):
    """Starts a process of the command."""
    process = forks.Process(target=run, args=(words, environment, log))
    with pytest.MonkeyPatch.context() as patch:  # for the first of all processes
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        process.start()
    return process
