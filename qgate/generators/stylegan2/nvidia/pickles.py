"""A pickle machine that executes nothing: opcodes in, plain data out. Knows nothing of networks.

Python's own unpickler imports and calls what a file names. This one only knows the opcodes that a pickler writes for
plain data, and the globals it is given: our own functions, found by the exact pair (module, name) in a dictionary.
Nothing is imported, no attribute is looked up by a name from the file, and every value takes memory in proportion to
the bytes it stands for. Source: PEP 3154, PEP 574 and `pickletools`, which describes each opcode.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from qgate.errors import WeightsError

MAX_OPCODES = 400_000
"""A file of NVIDIA's has about a hundred thousand; an opcode makes at most one object of some two hundred bytes."""

MAX_INTEGER = 2**128

Function = Callable[..., Any]
Globals = Mapping[tuple[str, str], Function]
"""(module, name) -> our own function that stands for it; it gets the file's arguments and must check them."""


class Refused(WeightsError):
    """The file asks for something that no generator needs."""


class Budget:
    """What reading one file may cost, pickles within its pickle included, so that no part pays off being read twice."""

    def __init__(self, size: int) -> None:
        self.opcodes, self.argument_bytes = MAX_OPCODES, 2 * size

    def spend(self, argument: Any) -> None:
        """Account for one opcode; Refused where the budget is used up."""
        self.opcodes -= 1
        if isinstance(argument, str | bytes | bytearray):
            self.argument_bytes -= len(argument)
        if self.opcodes < 0 or self.argument_bytes < 0:
            raise Refused(f"takes more than {MAX_OPCODES} opcodes or twice its size to read")


class State:
    """A value that takes its contents later, from the opcode BUILD."""

    def build(self, state: Any) -> None:
        """Store the state as data."""
        raise Refused(f"sets the state of {type(self).__name__}")


def unpickle(stream: io.BytesIO, budget: Budget, known: Globals, persistent: Function | None = None) -> Any:
    """The value of the next pickle in a stream, which is left behind its end.

    known: what the file may ask for.
    persistent: our function that stands for persistent ids; None: they are refused.
    Raises Refused, and ValueError, LookupError or TypeError where the bytes are no whole pickle.
    """
    machine = _Machine(known, persistent)
    for opcode, argument, _ in pickletools.genops(stream):
        budget.spend(argument)
        if opcode.name == "STOP":
            break
        step = _STEPS.get(opcode.name)
        if step is None:
            raise Refused(f"uses the pickle opcode {opcode.name}")
        step(machine, argument)
    (value,) = machine.stack
    if machine.marks:
        raise ValueError("a mark is left over")
    return value


class _Machine:
    """Stack, marks and memo. A mark is the height of the stack below it, which nothing reaches until it is gone."""

    def __init__(self, known: Globals, persistent: Function | None) -> None:
        self.known, self.persistent = known, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError("the stack is empty down to its mark")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_to_mark(self) -> list[Any]:
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def find(self, module: Any, name: Any) -> None:
        """Push the function that stands for a global."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("the name of a global is no text")
        function = self.known.get((module, name))
        if function is None:
            raise Refused(f"asks for {shown(f'{module}.{name}')}")
        self.push(function)

    def call(self) -> None:
        """Call one of our functions; nothing else that can stand on the stack is callable."""
        arguments, function = self.pop(), self.pop()
        if not callable(function) or not isinstance(arguments, tuple):
            raise TypeError("something that is no function is called")
        self.push(function(*arguments))

    def build(self) -> None:
        state, value = self.pop(), self.top()
        if isinstance(value, State):
            value.build(state)
        elif not isinstance(value, dict):  # attributes of a dictionary, such as _metadata, are left out
            raise Refused(f"sets the state of a {type(value).__name__}")

    def set_items(self, pairs: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(pairs) % 2:
            raise TypeError("items without a dictionary")
        target.update(zip(map(checked_key, pairs[::2]), pairs[1::2], strict=True))

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise TypeError("items without a list")
        target.extend(values)

    def add(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not set:
            raise TypeError("items without a set")
        target.update(map(checked_key, values))

    def identify(self) -> None:
        if self.persistent is None:
            raise Refused("uses persistent ids")
        self.push(self.persistent(self.pop()))

    def take(self, count: int) -> tuple[Any, ...]:
        """The uppermost values in the order in which they were pushed."""
        return tuple(self.pop() for _ in range(count))[::-1]


def checked_key(key: Any) -> Any:
    """The key of a dictionary: only flat ones, since hashing nested tuples can take for ever."""
    if key is None or isinstance(key, str | int | float | bytes):
        return key
    raise Refused(f"uses a {type(key).__name__} as a key")


def shown(text: str) -> str:
    """Text of a file as messages may show it: ASCII, short."""
    return ascii(text[:100])[1:-1]


def _integer(machine: _Machine, value: Any) -> None:
    if not -MAX_INTEGER < value < MAX_INTEGER:
        raise Refused("holds a number of more than 128 bits")
    machine.push(value)


def _pop_mark(machine: _Machine, _: Any) -> None:
    machine.pop_to_mark()


def _remember(machine: _Machine, index: Any) -> None:
    machine.memo[len(machine.memo) if index is None else index] = machine.top()


def _global(machine: _Machine, argument: Any) -> None:
    machine.find(*argument.split(" ", 1))


def _stack_global(machine: _Machine, _: Any) -> None:
    machine.find(*machine.take(2))


_Step = Callable[[_Machine, Any], object]

_STEPS: dict[str, _Step] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, argument: None),
    "NONE": lambda machine, argument: machine.push(None),
    "NEWTRUE": lambda machine, argument: machine.push(True),
    "NEWFALSE": lambda machine, argument: machine.push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), _integer),
    **dict.fromkeys(("BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _Machine.push),
    "BYTEARRAY8": lambda machine, argument: machine.push(bytes(argument)),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    "EMPTY_DICT": lambda machine, argument: machine.push({}),
    "EMPTY_LIST": lambda machine, argument: machine.push([]),
    "EMPTY_SET": lambda machine, argument: machine.push(set()),
    "EMPTY_TUPLE": lambda machine, argument: machine.push(()),
    "TUPLE1": lambda machine, argument: machine.push(machine.take(1)),
    "TUPLE2": lambda machine, argument: machine.push(machine.take(2)),
    "TUPLE3": lambda machine, argument: machine.push(machine.take(3)),
    "TUPLE": lambda machine, argument: machine.push(tuple(machine.pop_to_mark())),
    "MARK": lambda machine, argument: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, argument: machine.pop(),
    "POP_MARK": _pop_mark,
    "SETITEM": lambda machine, argument: machine.set_items(list(machine.take(2))),
    "SETITEMS": lambda machine, argument: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, argument: machine.append(list(machine.take(1))),
    "APPENDS": lambda machine, argument: machine.append(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, argument: machine.add(machine.pop_to_mark()),
    "MEMOIZE": _remember,
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "BINGET": lambda machine, argument: machine.push(machine.memo[argument]),
    "LONG_BINGET": lambda machine, argument: machine.push(machine.memo[argument]),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda machine, argument: machine.call(),
    "NEWOBJ": lambda machine, argument: machine.call(),
    "BUILD": lambda machine, argument: machine.build(),
    "BINPERSID": lambda machine, argument: machine.identify(),
}
