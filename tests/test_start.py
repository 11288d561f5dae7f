"""How a process starts: names are imported when they are asked for, and their modules are checked by any route."""

import importlib
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import pytest

import audax_eqx
import zoo
from audax_eqx import frontends, layers, models, networks
from audax_eqx._typecheck import _Loader
from zoo import commands, tools
from zoo.__main__ import _parser

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = (zoo, tools, audax_eqx, frontends, layers, models, networks)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def run(script, *arguments, **environment):
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=ENVIRONMENT | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# What is imported

IMPORTED = """
import sys
exec(sys.argv[1])
print(*sorted({"jax", "equinox", "jaxtyping", "beartype", "numpy", "huggingface_hub"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("statement", ["import zoo", "import audax_eqx", "from audax_eqx import networks, features"])
def test_a_package_alone_imports_nothing_but_python(statement):
    if "features" in statement:  # a module is what it is
        statement = "from audax_eqx import networks, frontends, layers, models"
    assert run(IMPORTED, statement) == ""


@pytest.mark.parametrize(
    "statement",
    [
        "import zoo; assert len(zoo.list_models()) > 40",
        "import zoo; assert zoo.info('resnet_esc10').classes == 10 and zoo.info('convnext_audioset').classes == 527",
        "import zoo; zoo.Entry, zoo.Checkpoint, zoo.example()",
        "from zoo.__main__ import main; assert main(['list', 'resnet*']) == 0",
        "from zoo.__main__ import main; assert main(['info', 'ast_audioset']) == 0",
        "from zoo.__main__ import _parser; _parser([]).format_help()",
    ],
)
def test_what_is_known_of_models_needs_no_jax(statement):
    imported = run(IMPORTED, statement).splitlines()[-1].split()
    assert not {"jax", "equinox", "huggingface_hub"} & {*imported}


def test_a_model_of_one_network_imports_no_other():
    script = "import sys, zoo; zoo.load('resnet_esc10'); print(*(m for m in sys.modules if 'audax_eqx.networks' in m))"
    loaded = run(script).split()
    assert "audax_eqx.networks.resnet" in loaded and "audax_eqx.networks.whisper" not in loaded


def test_each_command_is_in_the_module_that_is_imported_for_it():
    for module, names in commands.MODULES.items():
        made = []

        def command(run, *_, made=made, **__):
            made.append(run.__name__.strip("_"))
            return _Anything()

        importlib.import_module(f"zoo.commands.{module}").add(command)
        assert tuple(made) == names
    listed = [name for names in commands.MODULES.values() for name in names]
    assert all(f"    {name} " in _parser([]).format_help() for name in listed)
    assert f"{{{','.join(listed)}}}" not in _parser(["list"]).format_help()


class _Anything:
    """A parser that takes any argument."""

    def __getattr__(self, name):
        return lambda *_, **__: self


# Names


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_name_is_there_and_stays_what_it_is(package):
    assert {*package.__all__} <= {*dir(package)} and "__path__" in dir(package)
    for name in package.__all__:
        value = getattr(package, name)
        assert value is getattr(package, name) and value is vars(package)[name]
    assert run(f"from {package.__name__} import *; print(len([n for n in {package.__all__!r} if n in globals()]))") == (
        str(len(package.__all__))
    )


def test_a_name_that_there_is_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'lode'"):
        _ = zoo.lode
    with pytest.raises(ImportError, match="cannot import name 'lode' from 'zoo'"):
        exec("from zoo import lode")
    assert not hasattr(networks, "os.system") and not hasattr(networks, "")


@pytest.mark.parametrize(
    "statement",
    [
        "import audax_eqx.networks.passt",
        "from audax_eqx.networks import PaSST",
        "from audax_eqx.networks.passt import PaSST",
        "import audax_eqx; audax_eqx.networks.passt",
        "import zoo; zoo.load('resnet_esc10'); import audax_eqx.networks.passt",
    ],
)
def test_a_name_goes_before_the_module_of_the_same_name(statement):
    script = (
        f"{statement}\nfrom audax_eqx import networks\nprint(type(networks.passt).__name__, networks.PaSST.__name__)"
    )
    assert run(script) == "partial PaSST"


@pytest.mark.parametrize(
    "expression", ["audax_eqx.features.stft", "audax_eqx.networks.convnext.ConvNeXt", "zoo.hear.load_model"]
)
def test_modules_are_attributes_without_an_import_of_their_own(expression):
    assert run(f"import audax_eqx, zoo; print({expression} is not None)") == "True"


def test_functions_and_classes_are_pickled_by_their_names():
    for value in (zoo.load, zoo.Entry, networks.ResNet, layers.Linear, networks.resnet18.func):
        assert pickle.loads(pickle.dumps(value)) is value


THREADS = """
import sys, threading
sys.setswitchinterval(1e-6)
import zoo
from audax_eqx import networks
names = [(zoo, name) for name in zoo.__all__] + [(networks, name) for name in networks.__all__]
barrier, faults = threading.Barrier(8), []
def ask(order):
    barrier.wait()
    try:
        for package, name in order:
            getattr(package, name)
    except BaseException as error:
        faults.append(error)
threads = [threading.Thread(target=ask, args=(names[::(-1) ** n],)) for n in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(faults, all(type(m.__loader__).__name__ == "_Loader" for m in map(sys.modules.get, ("zoo._load", "zoo._entry"))))
"""


def test_threads_may_ask_at_once():
    assert run(THREADS) == "[] True"


# Checks

CHECKED = """
import sys
exec(sys.argv[1])
import jax.numpy as jnp
from jaxtyping import TypeCheckError
for call in (
    lambda: sys.modules["audax_eqx.features"].stft(jnp.zeros(8), "4", 2),
    lambda: sys.modules["audax_eqx.networks.resnet"].ResNet("x", key=None),
    lambda: sys.modules["zoo._entry"].Checkpoint(repo=3, table="t"),
    lambda: sys.modules["zoo._load"].load("resnet_esc10", verify="yes"),
):
    try:
        call()
    except TypeCheckError:
        print("checked", end=" ")
"""
ROUTES = {
    "by name": "import audax_eqx.features, zoo; zoo.load, zoo.Entry; from audax_eqx.networks import resnet18",
    "as attributes": "import audax_eqx, zoo; audax_eqx.features.stft; audax_eqx.networks.ResNet; zoo.load; zoo.Entry",
    "by their modules": "import audax_eqx.features, audax_eqx.networks.resnet, zoo._entry, zoo._load",
    "by importlib": """
import importlib
for name in ("audax_eqx.features", "audax_eqx.networks.resnet", "zoo._entry", "zoo._load"):
    importlib.import_module(name)
""",
    "by another module": "import zoo.hear; from audax_eqx.networks.resnet import *; import audax_eqx.features",
    "in a thread": """
import threading
def work():
    import zoo._load, audax_eqx.features, audax_eqx.networks.resnet
thread = threading.Thread(target=work)
thread.start()
thread.join()
""",
}


@pytest.mark.parametrize("route", ROUTES)
def test_functions_and_dataclasses_are_checked_whichever_way_they_come(route):
    assert run(CHECKED, ROUTES[route]) == "checked checked checked checked"


def test_checks_can_be_turned_off():
    script = "import zoo; print(zoo.Checkpoint(repo=3, table='t').repo)"
    assert run(script, JAXTYPING_DISABLE="1") == "3"


def test_all_modules_are_checked_but_those_that_take_what_others_bring():
    for name in (*zoo.__all__, *networks.__all__, *frontends.__all__, *layers.__all__, *models.__all__):
        for package in PACKAGES:
            getattr(package, name, None)
    unchecked = {"_lazy", "_typecheck", "__main__"}
    for name, module in sys.modules.items():
        top, _, rest = name.partition(".")
        if rest not in unchecked and ((top == "audax_eqx" and rest) or (top == "zoo" and rest.startswith("_"))):
            assert isinstance(module.__loader__, _Loader), name
    assert not any(isinstance(sys.modules[name].__loader__, _Loader) for name in ("zoo.hear", "zoo.mteb", "zoo.xares"))


PRECOMPILED = """
import audax_eqx._typecheck as typecheck, sys
compiled = []
source_to_code = typecheck._Loader.source_to_code
typecheck._Loader.source_to_code = lambda self, *a, **k: compiled.append(self.name) or source_to_code(self, *a, **k)
import zoo._entry, jaxtyping
print(compiled, zoo._entry.__spec__.loader.get_source("zoo._entry").count("class Entry"))
"""


def test_bytecode_with_checks_is_kept_beside_pythons_own(tmp_path):
    environment = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    assert "zoo._entry" in run(PRECOMPILED, **environment)
    assert run(PRECOMPILED, **environment) == "[] 1"
    kept = [path.name for path in tmp_path.rglob("*.pyc")]
    assert any(name.startswith("_entry.") and "checked" in name for name in kept)
    assert not [path for path in tmp_path.rglob("*checked*") if "site-packages" in str(path)]  # others' are as ever


# Signals


def test_a_signal_while_the_command_imports_is_told_in_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'zoo.commands.recordings':\n"
        "            print('importing', flush=True)\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    environment = ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo", "tag"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "audax-zoo: interrupted\n")
