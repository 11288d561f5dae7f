"""Imports point one way, stay within the declared packages, and public names are documented."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(path for package in ("audax_eqx", "zoo", "train") for path in (ROOT / package).rglob("*.py"))
GROUND = ("_checks", "_lazy", "_portable", "_sharding", "_typecheck")  # any part may import them
BELOW = {  # what each part may import, besides itself and the ground
    "features": set(),
    "augment": {"features"},
    "layers": {"features", "augment"},
    "abstract": {"features", "augment", "layers"},
    "tree": {"features", "augment", "layers", "abstract"},
    "lora": {"features", "augment", "layers", "abstract", "tree"},
    "frontends": {"features", "augment", "layers", "abstract"},
    "networks": {"features", "augment", "layers", "abstract"},
    "models": {"features", "augment", "layers", "abstract", "frontends", "networks"},
} | {name: {"_lazy"} if name == "_typecheck" else set() for name in GROUND}
PARTS = {
    f"audax_eqx.{part}": {f"audax_eqx.{name}" for name in (names if part in GROUND else names | {*GROUND})}
    for part, names in BELOW.items()
}
LIBRARY = {"jax", "equinox", "jaxtyping", "beartype", "numpy"}
ONLY_IN = {"tensorflow": {"train/records.py"}, "huggingface_hub": {"zoo/_hub.py", "zoo/_upload.py"}}
NOT_IN_ZOO = {"train", "optax", "torch", "tensorflow"}


def imported(path, source):
    """The absolute names of the modules that the file at `path`, relative to the repository, imports anywhere."""
    package = pathlib.PurePath(path).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part(name):
    return ".".join(name.removesuffix(".py").replace("/", ".").split(".")[:2])


def violations(path, source):
    for name in imported(path, source):
        top = name.split(".")[0]
        allowed = True
        if path.startswith("audax_eqx/") and path != "audax_eqx/__init__.py":
            own = part(path)
            if top == "audax_eqx":
                allowed = part(name) == own or part(name) in PARTS[own]
            else:
                allowed = top in LIBRARY or top in sys.stdlib_module_names
        elif path == "audax_eqx/__init__.py":
            allowed = top in LIBRARY | {"audax_eqx", "typing"}
        elif path.startswith("zoo/"):
            allowed = top not in NOT_IN_ZOO
        elif path.startswith("train/"):
            allowed = not name.startswith("zoo._")
        if top in ONLY_IN:
            allowed = path in ONLY_IN[top]
        if not allowed:
            yield f"{path} imports {name}"


@pytest.mark.parametrize("path", [path.relative_to(ROOT).as_posix() for path in FILES])
def test_imports_point_one_way(path):
    assert list(violations(path, (ROOT / path).read_text())) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("audax_eqx/features/_mel.py", "from ..augment import mixup"),
        ("audax_eqx/layers/conv.py", "from ..abstract import AbstractNetwork"),
        ("audax_eqx/networks/convnext.py", "from ..frontends import LogMel"),
        ("audax_eqx/networks/convnext.py", "from ..frontends.log_mel import LogMel"),
        ("audax_eqx/frontends/log_mel.py", "from .. import features, networks"),
        ("audax_eqx/frontends/log_mel.py", "import audax_eqx"),
        ("audax_eqx/models/classifier.py", "def f():\n    import optax"),
        ("audax_eqx/models/classifier.py", "import zoo"),
        ("audax_eqx/__init__.py", "import scipy"),
        ("zoo/_load.py", "from train.loop import fit"),
        ("zoo/_load.py", "import huggingface_hub.errors"),
        ("zoo/_hub.py", "import torch"),
        ("train/loop.py", "import tensorflow as tf"),
        ("train/loop.py", "from zoo._files import line"),
    ],
)
def test_a_wrong_import_is_found(path, source):
    assert len(list(violations(path, source))) == 1


def test_right_imports_are_found_and_allowed():
    source = "import jax\nfrom .. import features\nfrom ..layers import Linear\nfrom .other import Thing"
    names = ["jax", "audax_eqx.features", "audax_eqx.layers.Linear", "audax_eqx.networks.other.Thing"]
    assert list(imported("audax_eqx/networks/convnext.py", source)) == names
    assert list(violations("audax_eqx/networks/convnext.py", source)) == []
    assert list(violations("train/records.py", "import tensorflow")) == []


def test_importing_the_zoo_looks_for_no_heavy_package():
    heavy = {"torch", "tensorflow", "optax", "matplotlib", "huggingface_hub", "gradio", "pyarrow", "ray", "train"}
    script = f"""
import sys

class Recorder:
    sought = set()

    def find_spec(self, name, path=None, target=None):
        self.sought.add(name.partition(".")[0])

sys.meta_path.insert(0, Recorder())
import zoo.hear
assert {{"zoo", "audax_eqx", "jax"}} <= Recorder.sought
print(sorted({heavy!r} & Recorder.sought))
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr


LIBRARY_FILES = [path.relative_to(ROOT).as_posix() for path in FILES if path.is_relative_to(ROOT / "audax_eqx")]


@pytest.mark.parametrize("path", LIBRARY_FILES)
def test_public_names_have_docstrings(path):
    tree = ast.parse((ROOT / path).read_text())
    definitions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    public = [tree, *(node for node in definitions if not node.name.startswith("_"))]
    assert [getattr(node, "name", path) for node in public if not ast.get_docstring(node)] == []
