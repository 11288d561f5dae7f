"""Our replacements for the names in a torch pickle: descriptions of arrays, and functions that make them.

Every argument comes from the pickle, and is checked before it is used.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, no_type_check

import ml_dtypes  # noqa: F401, which gives NumPy bfloat16
import numpy as np

from ._archive import Fault, broken
from ._files import line

AXES = 32
LARGEST = 1 << 48  # of offsets, lengths and strides
REPEATS = 1 << 24  # elements of an expanded array, which repeats those of its storage
STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Bool": "bool",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Untyped": "uint8",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
}
DTYPES = {*STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"}
SETTINGS = re.compile(  # names of objects that are no arrays: options of a training, beside its weights
    r"argparse\.Namespace|pathlib\.\w*Path|typing\.\w+|datetime\.\w+|torch\.(device|Size|torch_version\.TorchVersion)"
    r"|torch\.(Tensor|nn\.parameter\.(Parameter|Buffer))"
    r"|(builtins|__builtin__)\.(set|frozenset|dict|list|int|long|float|str|bool|tuple)"
    r"|numpy\.(ndarray|(core|_core)\.multiarray\.scalar|bool_?|u?int\d+|float\d+|str_)"
    r"|(pytorch_lightning|lightning|lightning_fabric|omegaconf|pyannote)\..+"
)
NUMBERS = re.compile("b1|[iu][1248]|f[248]|c(8|16)")  # NumPy's codes


class Kind(NamedTuple):
    """A dtype, or torch's type of a storage of that dtype."""

    dtype: str


class Storage(NamedTuple):
    """`count` consecutive numbers, from number `start` on, of the storage that the file has under `key`."""

    key: str
    dtype: str
    count: int
    start: int = 0


class Tensor(NamedTuple):
    """A view of a storage. Offset and strides count numbers of `dtype`; the whole view lies in the storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(slots=True)
class Dtype:
    """NumPy's dtype: its kind and size, `f4`, and the order of its bytes."""

    code: str
    order: str = "="


@dataclasses.dataclass(slots=True)
class Array:
    """An array of NumPy in the pickle. `values` is None until they are read, and for an array without numbers."""

    values: np.ndarray | None = None


class Builder(NamedTuple):
    """Our function, which is called instead of the one that the pickle names."""

    build: Callable[..., Any]


NOTHING = object()  # replaces all settings; every operation on it gives it again
KEYS = (str, int, float, bool, bytes, type(None))


@no_type_check
def add(target, pairs):
    """Puts pairs of a key and a value into a dictionary."""
    for key, value in pairs:
        if type(key) is int and abs(key) >= 1 << 60:  # many such keys can share one hash, which would take for ever
            raise broken("a key in its pickle is a number too large")
        if type(key) in KEYS:
            target[key] = value
        elif key is not NOTHING:
            raise Fault("holds a dictionary whose keys are neither texts nor numbers: save only model.state_dict()")
    return target


@no_type_check
def named(module, name):
    """Our replacement for `module.name`. Raises Fault for a name that belongs neither to arrays nor to settings."""
    full, dtype = f"{module}.{name}", name.removesuffix("Storage")
    if full in BUILDERS:
        return BUILDERS[full]
    if dtype != name and module in ("torch", "torch.cuda", "torch.storage") and dtype in STORAGES:
        return Kind(STORAGES[dtype])
    if module == "torch" and name in DTYPES:
        return Kind(name)
    if SETTINGS.fullmatch(full):
        return NOTHING
    if module in ("torch", "torch._utils") and (odd := re.search("sparse|qtensor|^Q.*Storage|nested", name)):
        kind = {"s": "sparse", "n": "nested"}.get(odd[0][0], "quantized")
        raise Fault(f"holds a {kind} array ({line(full)}): make it a dense one of floats before it is saved")
    raise Fault(
        f"names {line(full)}, and the zoo reads only arrays from a torch file: save only model.state_dict(), or get "
        "the weights as safetensors"
    )


@no_type_check
def whole(*numbers):
    """Returns the numbers. Raises Fault unless all are integers from 0 on and below LARGEST."""
    if not all(type(number) is int and 0 <= number < LARGEST for number in numbers):
        raise broken("an array has a size, a stride or an offset that makes no sense")
    return numbers


@no_type_check
def storage_of(kind, key, count):
    """The storage that a persistent id names."""
    if type(kind) is not Kind or type(key) is not str:
        raise broken("a storage is not described as one")
    return Storage(key, kind.dtype, *whole(count))


@no_type_check
def _tensor(storage, offset, shape, strides, _gradient=False, _hooks=None, notes=None):
    return _view(storage, None, offset, shape, strides, notes)


@no_type_check
def _typed_tensor(storage, offset, shape, strides, _gradient, _hooks, kind, notes=None):
    if type(kind) is not Kind:
        raise TypeError
    return _view(storage, kind.dtype, offset, shape, strides, notes)


@no_type_check
def _view(storage, dtype, offset, shape, strides, notes):
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise TypeError
    if notes:  # a negation or conjugation that torch has not yet applied
        raise Fault("holds an array whose sign torch has not applied yet: save x.resolve_conj().resolve_neg()")
    if len(whole(offset, *shape, *strides)) > 1 + 2 * AXES:
        raise broken("an array has more axes than arrays have")
    dtype = dtype or storage.dtype
    room = storage.count * np.dtype(storage.dtype).itemsize // np.dtype(dtype).itemsize
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if offset > room or (0 not in shape and last >= room):
        raise broken("an array lies outside of its storage")
    if math.prod(max(size, 1) for size in shape) > max(room, REPEATS):
        raise broken("an array is far larger than its storage")
    return Tensor(storage, dtype, offset, shape, strides)


@no_type_check
def _ordered(pairs=()):
    """An OrderedDict; Python 2 gives its pairs as a list of lists."""
    if type(pairs) not in (list, tuple) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise TypeError
    return add({}, pairs)


@no_type_check
def _parameter(data, _gradient=True, _hooks=None, _state=None):
    if type(data) is not Tensor:
        raise TypeError
    return data


@no_type_check
def _attributed(function, _kind, arguments, _state):
    """An array to which somebody gave attributes."""
    if type(function) is not Builder or function is BUILDERS["torch._tensor._rebuild_from_type_v2"]:
        raise TypeError
    return _parameter(function.build(*arguments))


# NumPy's arrays, which some files have beside the weights


@no_type_check
def _dtype(code, _align=False, _copy=False):
    if type(code) is not str:
        raise TypeError
    return Dtype(code)


@no_type_check
def _encoded(text, coding):
    if type(text) is not str or coding != "latin1":
        raise TypeError
    return text.encode("latin1")


@no_type_check
def content(_version, shape, dtype, fortran, data):
    """The values of an array of NumPy; None for an array of texts or objects."""
    if type(dtype) is not Dtype or type(shape) is not tuple or type(dtype.order) is not str:
        raise TypeError
    if not NUMBERS.fullmatch(dtype.code) or dtype.order not in ("<", ">", "=", "|"):
        return None
    data = data.encode("latin1") if type(data) is str else data
    form = np.dtype(dtype.order.strip("|") + dtype.code)
    if len(shape) > AXES or type(data) is not bytes or math.prod(whole(*shape)) * form.itemsize != len(data):
        raise broken("an array has another size than it claims")
    return np.frombuffer(data, form).reshape(shape, order="F" if fortran else "C")


BUILDERS = {
    "collections.OrderedDict": Builder(_ordered),
    "collections.defaultdict": Builder(lambda _factory=None: {}),
    "torch._utils._rebuild_tensor": Builder(_tensor),
    "torch._utils._rebuild_tensor_v2": Builder(_tensor),
    "torch._utils._rebuild_tensor_v3": Builder(_typed_tensor),
    "torch._utils._rebuild_parameter": Builder(_parameter),
    "torch._utils._rebuild_parameter_with_state": Builder(_parameter),
    "torch._tensor._rebuild_from_type_v2": Builder(_attributed),
    "numpy.dtype": Builder(_dtype),
    "numpy.core.multiarray._reconstruct": Builder(lambda _kind, _shape, _code: Array()),
    "numpy._core.multiarray._reconstruct": Builder(lambda _kind, _shape, _code: Array()),
    "_codecs.encode": Builder(_encoded),
}
