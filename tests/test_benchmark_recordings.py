"""The benchmark of recordings runs where there is no torch, and keeps the rows that it did not measure anew."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import soundfile

ROOT = pathlib.Path(__file__).parents[1]


def test_small_run_writes_its_rows(tmp_path):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.random.default_rng(0).uniform(-0.5, 0.5, 9000), 8000)
    out = tmp_path / "recordings.json"
    out.write_text(json.dumps({"another": {"ratio": 1}}))
    command = [sys.executable, ROOT / "benchmarks" / "recordings.py", "--small", "--folder", tmp_path, "--output", out]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for only in ("engine, ConvNeXt-Tiny", "files*", "memory"):
        run = subprocess.run(
            [*command, "--only", only, "--peer", sys.executable],
            env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
    rows = json.loads(out.read_text())
    assert set(rows) == {"another", "machine", "engine, ConvNeXt-Tiny", "memory"}
    assert {"windows_per_second", "bare", "ratio", "load", "rounds"} == set(rows["engine, ConvNeXt-Tiny"])
    assert {"3", "6", "difference", "load", "rounds"} == set(rows["memory"])
