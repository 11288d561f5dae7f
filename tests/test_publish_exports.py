"""`audax-zoo publish` with --dtype, --layout and --exports: its commits on the stand-in for the Hub (tests/hub.py)."""

import json
import os
import pathlib
import subprocess
import sys

import hub as stand_in
import jax
import numpy as np
import pytest
import safetensors.numpy
from small import NETWORKS

import zoo
from zoo import _publish
from zoo.__main__ import main
from zoo._files import FILES, WEIGHTS

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = """
import json, sys
from zoo.__main__ import main
print(json.dumps([main(["publish", *arguments]) for arguments in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def ast(tmp_path_factory):
    """The folder of a small AST, with a card that somebody wrote."""
    entry = next(each for each in NETWORKS if each.name == "ast")
    folder = tmp_path_factory.mktemp("models") / "ast"
    zoo.save(folder, *zoo.create(entry, key=jax.random.key(0)), entry)
    (folder / "README.md").write_text("# Mine\n")
    return folder


@pytest.fixture(scope="module")
def commits(ast, tmp_path_factory):
    """The files of the newest commit of each repo, by the repo's name, and the output of the commands."""
    commands = [
        ["resnet_fsdd", "me/exported", "--exports", "stablehlo"],
        [str(ast), "me/transformers", "--layout", "transformers"],
        [str(ast), "me/audax", "--layout", "audax"],
        [str(ast), "me/half", "--dtype", "float16"],
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_TOKEN": stand_in.TOKEN}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT)}
    with stand_in.serve() as (hub, address):
        process = subprocess.run(
            [sys.executable, "-c", COMMANDS, json.dumps(commands)],
            env=environment | {"HF_ENDPOINT": address},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert process.returncode == 0, process.stderr
        *urls, codes = process.stdout.splitlines()
        assert json.loads(codes) == [0] * len(commands), process.stderr
        return {name: repo.commits[repo.find("main")] for name, repo in hub.repos.items()}, urls


def test_the_command_uploads_the_exported_model_in_the_same_commit(commits):
    files, urls = commits
    assert set(files["me/exported"]) == {*FILES, "model.stablehlo", ".gitattributes"}
    assert "/me/exported/commit/" in urls[0]
    clip = zoo.load("resnet_fsdd")
    waves = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 8000)).astype(np.float32)
    scores = jax.export.deserialize(bytearray(files["me/exported"]["model.stablehlo"])).call(waves)
    np.testing.assert_allclose(scores[0], clip.probabilities(waves[0]), rtol=1e-5, atol=1e-6)


def test_the_command_writes_the_layout_of_transformers_and_keeps_the_card(commits):
    files, _ = commits
    sent = files["me/transformers"]
    assert json.loads(sent["config.json"])["architectures"] == ["ASTForAudioClassification"]
    assert sent["README.md"] == b"# Mine\n"


def test_a_folder_that_has_the_layout_is_sent_unchanged(commits, ast):
    files, _ = commits
    assert {name: files["me/audax"][name] for name in FILES} == {name: (ast / name).read_bytes() for name in FILES}


def test_the_command_writes_half_the_weights(commits, ast):
    files, _ = commits
    arrays, halves = safetensors.numpy.load_file(ast / WEIGHTS), safetensors.numpy.load(files["me/half"][WEIGHTS])
    assert all(half.dtype == np.float16 for half in halves.values()) and halves.keys() == arrays.keys()
    for name, half in halves.items():
        np.testing.assert_array_equal(half, arrays[name].astype(np.float16))


def test_a_dry_run_lists_the_exported_files(capsys, monkeypatch):
    monkeypatch.setattr(_publish, "export", lambda clip, path: path.write_bytes(bytes(1234)))
    assert main(["publish", "resnet_fsdd", "me/new", "--exports", "stablehlo, onnx", "--dry-run"]) == 0
    sizes = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert set(sizes) == {*FILES, "model.stablehlo", "model.onnx"}
    assert sizes["model.stablehlo"] == sizes["model.onnx"] == "1,234"


@pytest.mark.parametrize(
    "options, part",
    [
        (["--exports", "tflite"], "exports is a list of 'stablehlo' and 'onnx', got ('tflite',)"),
        (["--exports", ""], "exports is a list of 'stablehlo' and 'onnx', got ('',)"),
        (["--layout", "transformers"], "transformers has no ResNet behind a PCEN"),
    ],
)
def test_what_the_function_refuses_the_command_refuses_in_the_same_words(capsys, options, part):
    assert main(["publish", "resnet_fsdd", "me/new", *options, "--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and part in err


def test_another_layout_ends_with_the_usage(capsys):
    with pytest.raises(SystemExit):
        main(["publish", "resnet_fsdd", "me/new", "--layout", "torch"])
    assert "--layout" in capsys.readouterr().err
