"""Reads the pickles of PyTorch files without running them.

A pickle is a program. This is an interpreter for the few instructions that
`torch.save` writes for a state dict; it imports nothing, calls nothing and
builds only plain values. Every other instruction, and every global name other
than those below, is refused by name.
"""

import dataclasses
import pickletools
import struct
from typing import Any

from tf_gpt.errors import CheckpointError

# Storage classes -> the type of their items.
STORAGES = {
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch DoubleStorage": "float64",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}
_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_GLOBALS = {*STORAGES, _DICT, _TENSOR, _PARAMETER}

# More than a state dict of any GPT-1 needs, few enough to end at once.
_MOST_INSTRUCTIONS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Storage:
    """What a persistent id says of a storage: its type, key and item count."""

    dtype: str
    key: str
    n_items: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, in items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


_MARK = object()

_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MEMO_WRITES = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_MEMO_READS = {"BINGET", "LONG_BINGET"}
_IGNORED = {"PROTO", "FRAME", "STOP"}


def load_pickle(stream, file) -> Any:
    """Returns the value of the pickle that begins at the stream's position.

    Args:
        stream: Binary stream; left after the pickle.
        file: Named in errors.

    Returns:
        Strings, numbers, booleans, None, tuples, lists, dicts (an OrderedDict
        becomes a dict), `Storage` and `Tensor`.

    Raises:
        CheckpointError: If the pickle is damaged, or has an instruction or a
            global that no state dict has.
    """
    machine = _Machine(file)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > _MOST_INSTRUCTIONS:
                raise CheckpointError(f"{file}: the pickle is too long.")
            machine.step(opcode.name, argument)
        return machine.result()
    except CheckpointError:
        raise
    # What `genops` raises on bytes that are no pickle, and what the stack
    # raises when an instruction finds too little or the wrong thing on it.
    except (
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
        OverflowError,
        struct.error,
    ) as error:
        raise CheckpointError(
            f"{file}: the pickle is damaged: {str(error)[:200]}."
        ) from error


class _Machine:
    """The stack and the memo of one pickle.

    Values from the pickle are never compared, hashed (dict keys are strings)
    or printed: tuples that share parts can be small and yet take for ever.
    """

    def __init__(self, file):
        self._file = file
        self._stack = []
        self._memo = {}

    def step(self, name, argument):
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self._stack.append(argument)
        elif name in _TUPLES:
            self._stack.append(tuple(self._pop_many(_TUPLES[name])))
        elif name in _MEMO_WRITES:
            index = len(self._memo) if name == "MEMOIZE" else argument
            self._memo[index] = self._stack[-1]
        elif name in _MEMO_READS:
            self._stack.append(self._memo[argument])
        elif name not in _IGNORED:
            method = getattr(self, f"_do_{name.lower()}", None)
            if method is None:
                raise self._refuse(f"the instruction {name}")
            method(argument)

    def result(self):
        (value,) = self._stack
        return value

    def _do_global(self, name):
        if name not in _GLOBALS:
            raise self._refuse(f"the global {name.replace(' ', '.')[:200]!r}")
        self._stack.append(_Global(name))

    def _do_stack_global(self, _):
        module, name = self._pop_many(2)
        self._do_global(f"{_text(module)} {_text(name)}")

    def _do_tuple(self, _):
        self._stack.append(tuple(self._pop_to_mark()))

    def _do_append(self, _):
        (value,) = self._pop_many(1)
        _expect(self._stack[-1], list).append(value)

    def _do_appends(self, _):
        values = self._pop_to_mark()
        _expect(self._stack[-1], list).extend(values)

    def _do_setitem(self, _):
        key, value = self._pop_many(2)
        _expect(self._stack[-1], dict)[_text(key)] = value

    def _do_setitems(self, _):
        values = self._pop_to_mark()
        if len(values) % 2:
            raise ValueError("a key without a value")
        target = _expect(self._stack[-1], dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_text(key)] = value

    def _do_binpersid(self, _):
        (reference,) = self._pop_many(1)
        # The older form adds where in another storage this one lies: only
        # files before PyTorch 0.4 use it.
        kind, storage, key, _, n_items, *view = _expect(reference, tuple)
        if _text(kind) != "storage" or any(part is not None for part in view):
            raise self._refuse("a persistent id that is not of a whole storage")
        if type(storage) is not _Global or storage.name not in STORAGES:
            raise self._refuse("a storage of unknown type")
        self._stack.append(Storage(STORAGES[storage.name], _text(key), _size(n_items)))

    def _do_reduce(self, _):
        function, arguments = self._pop_many(2)
        name = function.name if type(function) is _Global else ""
        arguments = _expect(arguments, tuple)
        if name == _DICT:
            pairs = _expect(arguments[0], list) if arguments else []
            self._stack.append({_text(key): value for key, value in pairs})
        elif name == _TENSOR:
            storage, offset, shape, strides = arguments[:4]
            self._stack.append(
                Tensor(
                    _expect(storage, Storage),
                    _size(offset),
                    tuple(map(_size, _expect(shape, tuple))),
                    tuple(map(_size, _expect(strides, tuple))),
                )
            )
        elif name == _PARAMETER:
            self._stack.append(_expect(arguments[0], Tensor))
        else:
            raise self._refuse("a call of what is no known function")

    def _do_build(self, _):
        # The version numbers that a state dict carries as an attribute.
        (state,) = self._pop_many(1)
        _expect(state, dict)
        _expect(self._stack[-1], dict)

    def _pop_many(self, count):
        values = self._stack[-count:]
        if len(values) != count or any(value is _MARK for value in values):
            raise ValueError("an instruction finds too few values")
        del self._stack[-count:]
        return values

    def _pop_to_mark(self):
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _refuse(self, what):
        return CheckpointError(
            f"{self._file}: a checkpoint's pickle may hold tensors, storages and "
            f"OrderedDict only, and nothing of it is executed. Received: {what}."
        )


def _expect(value, kind):
    if type(value) is not kind:
        raise ValueError(f"{kind.__name__} expected, {type(value).__name__} found")
    return value


def _text(value):
    return _expect(value, str)


def _size(value):
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("a size or offset is no number of 0 or more")
    return value
