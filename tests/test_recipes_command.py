"""Recipes: what the command line makes of their names, their options and a user's own file."""

import dataclasses
import importlib
import pathlib
import re
import shlex

import pytest
from recipes import LABELS, NAMES, size

import zoo
from train import __main__ as command
from train import recipe
from zoo._create import skeleton


def text(name):
    """The recipe's own docstring."""
    return importlib.import_module(f"train.recipes.{name}").__doc__


def commands(name):
    """What the docstring tells to type, as lists of words."""
    lines = (line.strip() for line in text(name).splitlines())
    return [shlex.split(line) for line in lines if line.startswith("audax-train ")]


@pytest.fixture
def trained(monkeypatch):
    """What the command line would train, instead of training it: (recipe, data, out) each."""
    calls = []
    for function in ("train", "cross_validate"):
        monkeypatch.setattr(command, function, lambda *lines: calls.append(lines) or 0)
    return calls


# The command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_prepares_and_trains(name, trained, monkeypatch):
    rates, lines = set(), commands(name)

    def prepare(manifest, out, *, sample_rate, **_):
        rates.add((str(out), sample_rate))
        return {"examples": 0, "seconds": 0.0, "labels": []}

    monkeypatch.setattr(command.records, "prepare", prepare)
    for words in lines:
        if words[1] not in ("save", "evaluate"):
            assert command.main(words[1:]) == 0
    assert [words[1] for words in lines][:1] == ["prepare"]
    assert trained and all(words[1] in ("prepare", "cross-validate", "save", name) for words in lines)
    for chosen, data, out in trained:
        assert out.parts[0] == "runs"
        if chosen.model.start is None or chosen.model.start in zoo.list_models():  # a run's folder is not here
            assert (str(data), chosen.entry(LABELS).sample_rate) in rates
            if chosen.model.start is not None and zoo.info(chosen.model.start).classes:  # encoders hear any length
                assert chosen.data.seconds == zoo.info(chosen.model.start).window
    assert re.search(r"`files(,labels)?(,\w+)*`|files/;1s/category/labels", text(name))
    if recipe.find(name)[0].data.hold_out:
        assert recipe.find(name)[0].data.hold_out in text(name)


def options(value, path=""):
    """The command line's option for each field, as its help writes it."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    elif isinstance(value, dict) and value:
        fields = value
    else:
        return [f"--{path}"]
    return [
        option
        for name, each in fields.items()
        for option in options(each, f"{path}.{name}".lstrip(".").replace("_", "-"))
    ]


@pytest.mark.parametrize("name", ["audioset_leaf", "cola_convnext_tiny", "finetune"])
def test_help_lists_every_field(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main([name, "--help"])
    of_help = set(re.findall(r"--[a-z0-9.-]+", capsys.readouterr().out))
    of_fields = set(options(recipe.find(name)[0]))
    assert {
        "--optimizer.learning-rate",
        "--model.dropout",
        "--run.seed",
        "--objective.augment.frames",
    } < of_fields
    chosen = recipe.find(name)[0].model
    empty = {f"--model.{each}" for each in ("frontend", "network") if not getattr(chosen, each)}  # of what starts
    assert of_fields - empty <= of_help


def test_options_change_what_is_trained_and_nothing_else(trained):
    words = "--optimizer.learning-rate 1e-4 --data.batch 64 --data.no-balanced --objective.mixup 0 "
    words += "--objective.augment.bins 4 --run.precision float32 --model.network.type resnet34 --run.steps 7 "
    words += "--data.hold-out None"
    assert command.main(["audioset_resnet18", "data", "out", *words.split()]) == 0
    ((chosen, data, out),) = trained
    assert (data, out) == (pathlib.Path("data"), pathlib.Path("out"))
    base = recipe.find("audioset_resnet18")[0]
    assert chosen == dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, network={"type": "resnet34"}),
        data=dataclasses.replace(base.data, batch=64, balanced=False, hold_out=None, held_out=()),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=1e-4),
        objective=dataclasses.replace(
            base.objective, mixup=0.0, augment=dataclasses.replace(base.objective.augment, bins=4)
        ),
        run=dataclasses.replace(base.run, precision="float32", steps=7),
    )
    assert size(skeleton(chosen.entry(LABELS))[0].network) > 21e6


def test_patterns_of_parameters_are_options(trained):
    freeze, rates = ["network.stages.0.*", "frontend.*"], ["network.*", "0.3", "head.*", "2"]
    words = ["--optimizer.freeze", *freeze, "--optimizer.rates", *rates, "--model.start", "ast_audioset"]
    assert command.main(["finetune", "data", "out", *words, "--data.seconds", "10.24"]) == 0
    chosen = trained[0][0]
    assert chosen.optimizer.freeze == tuple(freeze)
    assert chosen.optimizer.rates == (("network.*", 0.3), ("head.*", 2.0))
    entry = chosen.entry(LABELS)
    assert (entry.network["type"], entry.window, entry.classes) == ("ast_base", 10.24, 35)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_without_options_is_the_file_itself(name, trained):
    assert command.main([name, "data", "out"]) == 0
    assert trained[0][0] == recipe.find(name)[0]
    assert trained[0][0].to_json() == recipe.find(name)[0].to_json()


# A user's own ---------------------------------------------------------------------------------------------------------

OWN = """
import dataclasses

from train import recipe as recipes


def objective(model, state, batch, keys):
    return 0.0, state


recipe = dataclasses.replace(recipes.find("fsdd")[0], name="mine", objective=objective)
"""


def test_a_file_is_a_recipe(tmp_path, trained):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    assert command.main([str(path), "data", "out", "--data.batch", "32"]) == 0
    chosen = trained[0][0]
    assert (chosen.name, chosen.data.batch, chosen.objective.__name__) == ("mine", 32, "objective")
    assert '"objective": "def objective(' in chosen.to_json()
    assert chosen.model == recipe.find("fsdd")[0].model


@pytest.mark.parametrize("content", [None, "", "recipe = 'fsdd'", "from train.recipe import Recipe as recipe"])
def test_what_is_no_recipe_gets_one_sentence(content, tmp_path, trained, capsys):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    assert command.main([str(path), "data", "out"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("audax-train: ") and captured.err.count("\n") == 1 and not captured.out
    assert str(path) in captured.err and not trained
    assert ("There is no recipe" if content is None else "has no `recipe = Recipe(...)`") in captured.err


def test_an_unknown_name_gets_all_names(capsys):
    assert command.main(["audioset_resnet19", "data", "out"]) == 2
    error = capsys.readouterr().err
    assert "'audioset_resnet19'" in error and all(name in error for name in NAMES)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.batch", "0"], "batch"),
        (["--data.held-out"], "by their column 'index' and by no value of it"),
        (["--data.seconds", "0"], "crops of some seconds"),
    ],
)
def test_numbers_that_make_no_sense_get_one_sentence(words, sentence, trained, capsys):
    try:
        code = command.main(["fsdd", "data", "out", *words])
    except SystemExit as exit:  # tyro's own
        code = exit.code
    assert code == 2 and not trained
    assert sentence in " ".join(capsys.readouterr().err.split())
