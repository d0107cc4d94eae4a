"""Names of the version before, which still work for one version and say what they are called now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any


def renamed_names(module: str, names: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function for a module's `__getattr__`: from a name that was asked for to the present one, with a warning.

    Args:
        module: the module's name.
        names: former name to present name.
    """

    def present(name: str) -> str:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is called {names[name]} now.", DeprecationWarning, stacklevel=3)
        return names[name]

    return present


def renamed_method(old: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return what to call `old` in the class of `method`: it warns and calls the method by its present name."""

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        new = method.__name__
        warnings.warn(f"{type(self).__name__}.{old} is called {new} now.", DeprecationWarning, stacklevel=2)
        return getattr(self, new)(*args, **kwargs)

    return call


def renamed_overrides(kind: type, names: Mapping[str, str]) -> None:
    """Let what a class defines under former names stand for the present ones, with a warning.

    To be called by `__init_subclass__` of an abstract class, so that the warning is at the line of the class.
    """
    for old, new in names.items():
        if old in vars(kind) and new not in vars(kind):
            warnings.warn(f"{kind.__name__}.{old} is called {new} now.", DeprecationWarning, stacklevel=4)
            setattr(kind, new, vars(kind)[old])
