"""What a function is, in digits that are the same in every process: its code, and the values that it depends on."""

from __future__ import annotations

import dis
import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import torch
from torch import Tensor

from sparring.attacks import Attack
from sparring.models.weights import tensor_bytes

ADDRESS = " at 0x"  # what the repr of a thing that does not describe itself contains
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.device)
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")  # the latter in the bodies of classes
_NO_MEMBERS = (  # of classes written in C, and those that give access to attributes
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
)


def identity(value: object) -> str | None:
    """Return hexadecimal digits that change with a function or a value; None where no digits would last.

    Of a function they cover the code, the defaults, what it closes over, and the globals that it reads; of
    `functools.partial` its parts; of a method its object; of any other callable its class and its attributes. All of this by
    the same rule down to numbers, texts, tuples, lists, sets, dictionaries, tensors by their content, and attacks by their
    repr. Modules, classes, and functions that were imported go by their names. Something else, such as a generator or
    an open file, cannot be told from others of its kind in another process.
    """
    try:
        return hashlib.sha256(_Text().of(value).encode()).hexdigest()
    except (_NoIdentity, RecursionError):
        return None


class _NoIdentity(Exception):
    """Nothing tells this value from others but its place in memory."""


class _Text:
    """Writes values as text; what comes up again, as recursive functions do, is written once."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, object]] = {}  # by id; the objects are kept, so that no id is used again

    def of(self, value: object) -> str:
        """Return the text, or raise `_NoIdentity`."""
        match value:
            case CodeType():
                return self._written(value, _code(value))
            case Attack():
                return _described(value)
            case _ if isinstance(value, _PLAIN):
                return f"{type(value).__name__} {value!r}"
            case ModuleType() | type():
                return _named(value)
            case BuiltinFunctionType() if value.__self__ is None or isinstance(value.__self__, ModuleType | type):
                return _named(value)
            case Tensor():
                return f"tensor {value.dtype} {tuple(value.shape)} {_content(value)}"
            case set() | frozenset():  # in an order of its own in every process
                return f"{type(value).__name__} {sorted(_Text().of(each) for each in value)}"
            case tuple():
                return self._written(value, value)
            case slice():
                return self._written(value, (value.start, value.stop, value.step))
        if id(value) in self._seen:
            return f"again {self._seen[id(value)][0]}"
        self._seen[id(value)] = len(self._seen), value
        return self._written(value, _parts(value))

    def _written(self, value: object, parts: Iterable[object]) -> str:
        return f"{type(value).__qualname__}({', '.join(self.of(part) for part in parts)})"


def _parts(value: object) -> Iterator[object]:
    """Yield what a value that may come up again consists of."""
    match value:
        case list():
            yield from value
        case dict():
            yield from value.items()
        case partial():
            yield from (value.func, value.args, value.keywords)
        case MethodType():
            yield from (value.__func__, value.__self__)
        case FunctionType():
            yield from (value.__code__, value.__defaults__, value.__kwdefaults__, vars(value))
            yield from (_cell(cell) for cell in value.__closure__ or ())
            yield from _globals(value)
        case BuiltinFunctionType():
            yield from (value.__name__, value.__self__)
        case classmethod() | staticmethod():
            yield value.__func__
        case property():
            yield from (value.fget, value.fset, value.fdel)
        case _:
            yield from _members(type(value))
            yield _state(value)


def _code(code: CodeType) -> Iterator[object]:
    """Yield what a function does, whatever file and line it is in."""
    yield from (code.co_code, code.co_exceptiontable, code.co_flags, code.co_names, code.co_varnames)
    yield from (code.co_cellvars, code.co_freevars, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    yield code.co_consts  # nested functions among them


def _cell(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing yet
        return None


def _globals(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield the globals that the function's own code reads, in the order of their names."""
    known = function.__globals__
    for name in sorted(set(_names(function.__code__)) & known.keys()):
        value = known[name]
        imported = isinstance(value, FunctionType) and value.__module__ != function.__module__
        yield name, _named(value) if imported else value


def _names(code: CodeType) -> Iterator[str]:
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _members(kind: type) -> Iterator[tuple[str, object]]:
    """Yield the methods and values of a class and of those that it derives from; of the special methods, the call."""
    for each in kind.__mro__:
        yield each.__qualname__, each.__module__
        for name, member in vars(each).items():
            special = name.startswith("__") and name != "__call__"
            if not (special or name == "_abc_impl" or isinstance(member, _NO_MEMBERS)):
                yield name, member


def _state(value: object) -> object:
    """Return the attributes of an object that keeps all it has in them; raise `_NoIdentity` for others."""
    kind = type(value)
    if any(
        getattr(kind, name) is not getattr(object, name) for name in ("__reduce__", "__reduce_ex__", "__getstate__")
    ):
        raise _NoIdentity  # it says itself what matters of it, or holds what is no attribute
    try:
        return tuple(value.__reduce_ex__(2)[1:])
    except Exception as error:  # locks and the like have no state that could be written
        raise _NoIdentity from error


def _named(value: Any) -> str:
    return f"{type(value).__name__} {getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"


def _described(attack: Attack) -> str:
    if ADDRESS in repr(attack):
        raise _NoIdentity
    return repr(attack)


def _content(tensor: Tensor) -> str:
    try:
        return hashlib.sha256(tensor_bytes(tensor)).hexdigest()
    except (RuntimeError, NotImplementedError) as error:  # sparse, or without memory
        raise _NoIdentity from error
