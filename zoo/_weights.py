"""Reads and writes files of weights, as arrays by name. Nothing in this file needs JAX."""

import contextlib
import functools
import os
import pathlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, no_type_check

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ._bundle import bundle_file, is_bundle, shards
from ._files import INSTEAD, WEIGHTS, is_torch, line, parse_json, read_text
from ._torch import Leaf, torch_file

if TYPE_CHECKING:
    ArraysByName = Mapping[str, np.ndarray]
else:
    ArraysByName = Mapping  # a check of the values' type would read one, perhaps a large one that nobody needs
DTYPES = re.compile("F16|BF16|F32|F64|[IU](8|16|32|64)|BOOL")  # of weights; integers are counters of training
LARGEST = 1 << 16  # arrays, each of which is compared with the rules of a table
READABLE = re.compile(f"{DTYPES.pattern}|C64")  # types of safetensors that NumPy can read


def check_types(dtypes: Iterable[str], where: str, pattern: re.Pattern = DTYPES) -> None:
    """Raises ValueError if the file `where` has arrays of a type that does not match `pattern`."""
    if other_types := sorted({dtype for dtype in dtypes if not pattern.fullmatch(dtype)}):
        types = line(", ".join(other_types))
        raise ValueError(f"{where} holds arrays in {types}: convert them to float32, float16 or bfloat16.")


class Arrays(ArraysByName):
    """The arrays of a safetensors or torch file. Each is read on access. `shapes` and `dtypes` are by name.

    The path of a TensorFlow checkpoint is that of its table. A model may be divided among several files, `paths`.
    Raises ValueError for a file of another kind or a broken one, and for a name that occurs in two of the files.
    """

    def __init__(self, *paths: str | os.PathLike):
        self.path = str(paths[0])
        self._leaves: dict[str, Leaf] = {}
        self._settings: list[Callable[[], dict]] = []
        for path in paths:
            leaves, settings = _opened(pathlib.Path(path))
            if common := sorted(leaves.keys() & self._leaves.keys()):
                raise ValueError(
                    f"{path} holds {line(common[0])}, and so does another file of the model: fetch both again."
                )
            self._leaves |= leaves
            self._settings.append(settings)
        if len(self._leaves) > LARGEST:
            raise ValueError(
                f"{self.path} holds {len(self._leaves)} arrays, and the zoo reads up to {LARGEST}: this is no model."
            )
        self.shapes = {name: leaf.shape for name, leaf in self._leaves.items()}
        self.dtypes = {name: leaf.dtype for name, leaf in self._leaves.items()}

    @property
    def settings(self) -> dict[Any, Any]:
        """The numbers, texts and None beside the arrays of a torch file, nested in dictionaries and lists as in the
        file, for example {"cfg": {"depth": 12}}. A tuple becomes a list, and an array in a list becomes None."""
        return {key: value for settings in self._settings for key, value in settings().items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._leaves[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)


def _opened(path: pathlib.Path) -> tuple[dict[str, Leaf], Callable[[], dict]]:
    """The arrays of a file, and the function that returns its settings."""
    if is_bundle(path):
        return bundle_file(path), dict
    with open(path, "rb") as file:
        head = file.read(512)
    return (torch_file if is_torch(head) else _safetensors)(path)


@no_type_check  # a type check would read an array
def arrays(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
    """The arrays of any safetensors or torch file, by name. Each access reads an array, which the caller may change.

    `.pt`, `.pth`, `.bin` and `.ckpt` files of every torch since 0.2 are read without torch, and nothing in them runs.
    Keys of nested dictionaries (also numbers) and places in lists and tuples are joined by dots, as in
    `model_state.lstm.weight_ih_l0`; an array that is the whole content has the name "". Numbers and texts beside the
    arrays are in the mapping's `settings`, nested as in the file. bfloat16 is read as `ml_dtypes.bfloat16`, a Parameter
    as its array, and an expanded or transposed array in its full shape.

    Raises FileNotFoundError if there is no such file. Raises ValueError with one sentence for a file of another kind or
    a broken one, for one that names anything but arrays and the settings of common trainers, for one that asks for more
    memory than it holds, and for two arrays whose joined keys are equal.
    """
    try:
        return Arrays(os.fspath(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: name a safetensors or torch file.") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder: name a safetensors or torch file in it.") from None


def model_arrays(fetch: Callable[[str], pathlib.Path], file: str) -> Arrays:
    """The weights of a model; `fetch` returns the path of a file of it.

    They are read from `file`. If that is "model.safetensors" and missing, they are read from the first file there that
    transformers may write instead. Raises as `fetch` does for `file`, and ValueError as `Arrays` does.
    """
    files, errors = (WEIGHTS, *INSTEAD) if file == WEIGHTS else (file,), []
    for candidate in files:
        try:
            path = fetch(candidate)
        except FileNotFoundError as error:
            errors.append(error)
            continue
        if is_bundle(path):
            for shard in shards(path):
                fetch(str(pathlib.PurePosixPath(candidate).with_name(shard)))
        arrays = Arrays(*(map(fetch, _shards(path)) if path.suffix == ".json" else [path]))
        check_types(arrays.dtypes.values(), arrays.path)
        return arrays
    raise errors[0]


def _shards(path: pathlib.Path) -> list[str]:
    """The files that an index of transformers names, sorted. Raises ValueError for another file."""
    index = parse_json(read_text(path), str(path))
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ValueError(f"{path} has no weight_map, which names the file of each array: fetch or copy it again.")
    return sorted(set(places.values()))


def _safetensors(path: pathlib.Path) -> tuple[dict[str, Leaf], Callable[[], dict]]:
    """The arrays of a safetensors file, which has no settings. Raises ValueError for a broken one."""
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(_broken(path, error)) from None

    def read(name: str, dtype: str) -> np.ndarray:
        check_types([dtype], str(path), READABLE)
        return file.get_tensor(name)

    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    leaves = {
        name: Leaf(tuple(view.get_shape()), view.get_dtype(), functools.partial(read, name, view.get_dtype()))
        for name, view in slices.items()
    }
    return leaves, dict


def _broken(path: pathlib.Path, error: SafetensorError) -> str:
    """The error message for a file that is not safetensors."""
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:] != b"{" and path.suffix != ".safetensors":
        return (
            f"{path} is neither a safetensors file nor one that torch wrote: name a file with the weights of a model."
        )
    # In the Hub's cache the path is a link, and the user has to delete the file that it points to
    fault = line(str(error))
    return f"{path} is not a whole safetensors file ({fault}): delete {path.resolve()} and fetch or copy it again."


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray], format: str = "jax") -> None:
    """Writes a safetensors file; transformers needs the format "pt". Raises OSError if it cannot be written."""
    try:
        save_file(dict(arrays), path, metadata={"format": format})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary path beside `path` to write to. It is renamed to `path` if the block succeeds, and removed otherwise.

    Raises FileNotFoundError if the folder does not exist, and OSError if it cannot be written.
    """
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path.parent} is not a folder, so {path.name} cannot be written there: create it first."
        )
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
