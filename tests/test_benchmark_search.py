"""The benchmark of search compares the same rows, and keeps what it did not measure anew."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_small_run_writes_its_rows(tmp_path):
    out = tmp_path / "search.json"
    out.write_text(json.dumps({"another": {"ratio": 1}}))
    command = [sys.executable, ROOT / "benchmarks" / "search.py", "--small", "--only", "[Pn]*", "--output", out]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    rows = json.loads(out.read_text())
    assert set(rows) == {"another", "machine", "Parquet", "npz"}
    assert {"rows_per_second", "numpy", "ratio", "load", "rounds"} == set(rows["Parquet"])
