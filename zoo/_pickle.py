"""Reads a pickle of torch as dictionaries, lists, numbers and arrays, and runs nothing that it names.

A pickle is a program for a machine with a stack. Python's own machine imports the names in the program, calls them, and
allocates as much memory as the program asks for. This machine knows only the instructions that torch writes, and
replaces each name by a value of ours (`zoo._tensors`).
"""

import io
import pickletools
import struct
from collections.abc import Callable, Iterator
from typing import Any, no_type_check

from ._archive import Fault, broken
from ._tensors import NOTHING, Array, Builder, Dtype, Storage, add, content, named

INSTRUCTIONS = 1 << 20  # of one pickle; each takes about a microsecond


def unpickle(data: bytes, storage: Callable[[tuple], Storage]) -> tuple[Any, int]:
    """The content of the first pickle in `data`, and where it ends. `storage` turns a persistent id into a storage.

    Makes only dictionaries, lists, tuples, numbers, texts, bytes and what `named` returns. Raises Fault for all else.
    """
    stream, machine = io.BytesIO(data), _Machine(storage)
    try:
        for count, (opcode, argument, _) in enumerate(_instructions(stream)):
            if count == INSTRUCTIONS:
                raise Fault(
                    f"has a pickle of more than {INSTRUCTIONS} instructions, more than any model needs: do not trust it"
                )
            if opcode.name == "FRAME" and argument > len(data) - stream.tell():
                raise broken("its pickle ends early, or is none")
            act = ACTS.get(opcode.name)
            if act is None:
                raise Fault(
                    f"has the instruction {opcode.name} in its pickle, which torch does not write: do not trust it"
                )
            act(machine, argument)
    except Fault:
        raise
    except (IndexError, KeyError, TypeError, ValueError):
        raise broken("its pickle makes no sense") from None
    if len(machine.stack) != 1 or machine.marks:
        raise broken("its pickle makes no sense")
    return machine.stack[0], stream.tell()


@no_type_check  # a check of each instruction would take too long
def _instructions(stream: io.BytesIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """Each instruction and its argument, which is never longer than the stream."""
    try:
        yield from pickletools.genops(stream)
    except (ValueError, OverflowError, struct.error):
        raise broken("its pickle ends early, or is none") from None


@no_type_check
class _Machine:
    """The stack, the marks on it, and the memo. Each method is an instruction, or takes values from the stack."""

    def __init__(self, storage):
        self.stack, self.marks, self.memo, self.storage = [], [], {}, storage

    def nothing(self, _):
        pass

    def push(self, argument):
        self.stack.append(argument)

    def mark(self, _):
        self.marks.append(len(self.stack))

    def marked(self):
        """Removes and returns the values behind the last mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def last(self, count):
        """Removes and returns the last `count` values."""
        values = self.stack[-count:]
        if len(values) < count:
            raise IndexError
        del self.stack[-count:]
        return values

    def frozen(self, _):
        self.marked()
        self.stack.append(NOTHING)

    def put(self, index):
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index):
        self.stack.append(self.memo[index])

    def extend(self, values):
        target = self.stack[-1]
        if type(target) is list:
            target.extend(values)
        elif target is not NOTHING:
            raise TypeError

    def update(self, values):
        target = self.stack[-1]
        if target is NOTHING:
            return
        if type(target) is not dict:
            raise TypeError
        add(target, zip(values[::2], values[1::2], strict=True))

    def glob(self, argument):
        self.stack.append(named(*argument.split(" ", 1)))

    def stack_global(self, _):
        module, name = self.last(2)
        if type(module) is not str or type(name) is not str:
            raise TypeError
        self.stack.append(named(module, name))

    def reduce(self, _):
        function, arguments = self.last(2)
        if type(arguments) is not tuple:
            raise TypeError
        if function is not NOTHING and type(function) is not Builder:
            raise broken("its pickle calls what is no function")
        self.stack.append(NOTHING if function is NOTHING else function.build(*arguments))

    def new(self, _):
        kind, _ = self.last(2)
        if kind is not NOTHING:
            raise broken("its pickle makes an object of what is no class")
        self.stack.append(NOTHING)

    def build(self, _):
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Dtype:
            target.order = state[1]
        elif type(target) is Array:
            target.values = content(*state)
        elif type(target) is not dict and target is not NOTHING:  # versions beside a state_dict are ignored
            raise broken("its pickle changes what cannot be changed")

    def persistent(self, _):
        name = self.stack.pop()
        if type(name) is not tuple:
            raise TypeError
        self.stack.append(self.storage(name))


ACTS = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.nothing),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_SET": lambda machine, _: machine.push(NOTHING),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.last(3))),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    "FROZENSET": _Machine.frozen,
    "APPEND": lambda machine, _: machine.extend(machine.last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.marked()),
    "SETITEM": lambda machine, _: machine.update(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.marked()),
    "MARK": _Machine.mark,
    "GLOBAL": _Machine.glob,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
