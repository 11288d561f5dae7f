"""`audax-zoo verify` without the Hub, and the nightly job that runs it."""

import pathlib
import re

import pytest
import reports
import yaml
from hub import read_facts, run
from reports import table
from safetensors.numpy import load_file, save_file

import zoo
from zoo.__main__ import main
from zoo._source import packaged

folder = reports.folder


ROOT = pathlib.Path(__file__).parents[1]


def test_an_unreachable_hub_is_a_sentence_a_row(folder, tmp_path):
    script = """
from zoo.__main__ import main
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as out:
    facts["code"] = main(["verify"])
facts["out"] = out.getvalue()
"""
    facts = read_facts(run(script, folder, home=tmp_path, address="http://127.0.0.1:9"))
    rows = table(facts["out"])
    assert facts["code"] == 1
    assert list(rows) == zoo.list_models()
    for name, (repo, checked, result) in rows.items():
        if name in packaged():
            assert (repo, checked, result) == ("in the package", "arrays, golden output", "ok")
        else:
            assert checked == "-" and result.startswith(f"{repo} cannot be reached on the Hub (")
            assert result.endswith("try again.")


def test_offline_is_a_sentence_too(capsys):
    assert main(["verify", "convnext_audioset"]) == 1
    row = table(capsys.readouterr().out)["convnext_audioset"]
    assert row == ["topel/ConvNeXt-Tiny-AT", "-", row[2]] and "HF_HUB_OFFLINE" in row[2]


def test_packaged_models_and_folders_are_verified_here(folder, tmp_path, capsys):
    name = packaged()[0]
    assert main(["verify", name, str(folder)]) == 0
    assert table(capsys.readouterr().out) == {
        name: ["in the package", "arrays, golden output", "ok"],
        str(folder): ["a folder", "arrays, golden output", "ok"],
    }
    for path in folder.iterdir():
        if path.name != "golden.safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(["verify", str(tmp_path)]) == 0
    assert table(capsys.readouterr().out)[str(tmp_path)][1:] == ["arrays", "ok, it has no golden.safetensors"]
    arrays = load_file(tmp_path / "model.safetensors")
    del arrays["head.bias"]
    save_file(arrays, tmp_path / "model.safetensors")
    assert main(["verify", str(tmp_path), name]) == 1
    rows = table(capsys.readouterr().out)
    assert "head.bias is missing" in rows[str(tmp_path)][2] and rows[name][2] == "ok"


@pytest.mark.parametrize(
    "name, part", [("convnext_audiosets", "did you mean 'convnext_audioset'"), ("/none/there", "is not a folder")]
)
def test_a_name_of_nothing_exits_2_before_anything_is_checked(capsys, name, part):
    assert main(["verify", packaged()[0], name]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and part in captured.err


def test_the_nightly_job_runs_it():
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    when, steps = job[True], job["jobs"]["verify"]["steps"]  # YAML reads `on` as true
    assert "workflow_dispatch" in when
    (command,) = [step["run"] for step in steps if "audax-zoo" in step.get("run", "")]
    expression = re.fullmatch(r"audax-zoo verify \$\{\{ \((.*)\) && '(--\w+)' \|\| '' \}\}", command)
    weekly = when["schedule"][1]["cron"]
    assert expression[1] == f"inputs.full || github.event.schedule == '{weekly}'"
    assert main(["verify", packaged()[0], expression[2]]) == 0
