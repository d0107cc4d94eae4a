"""Modules of the user's own, by their names: run as they are, and what they raise is said with its file and line."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from pathlib import Path

from sparring.errors import BadInput, first_line

# Of a library: Python's own, installed packages, and this one.
_OTHERS = (*(Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")), Path(__file__).parent)


def attribute(module: str, name: str, what: str) -> object:
    """Return an attribute of a module, which is looked for in the working folder and where Python looks.

    Raises BadInput, beginning with `what`, if there is no such module or attribute, or the module cannot be imported.
    """
    if module.endswith(".py"):
        raise BadInput(f"{what}: give the module's name without .py, {module.removesuffix('.py')}.")
    here = str(Path.cwd())
    added = here not in sys.path and module.partition(".")[0] not in sys.modules
    if added:
        sys.path.insert(0, here)
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):  # another that the module imports
            raise BadInput(f"{what}: {located(error)}.") from error
        raise BadInput(f"{what}: there is no module {error.name!r} here or where Python looks.") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is not ours: it may fail in any way, or end the program
        raise BadInput(f"{what}: {located(error)}.") from error
    finally:
        if (
            added and here in sys.path
        ):  # last from now on: no file here is to stand for a library that is imported later
            sys.path.remove(here)
            sys.path.append(here)
    try:
        found: object = getattr(imported, name)
    except AttributeError as error:
        raise BadInput(f"{what}: the module {module} has no {name!r} ({imported.__file__}).") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of a `__getattr__` of the module's
        raise BadInput(f"{what}: {located(error)}.") from error
    return found


def located(error: BaseException) -> str:
    """Return what an exception of somebody's code says, after the file and the line.

    That is the last line outside Python's library, installed packages and this one, and where there is none the last one.
    """
    said = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen ")]
    frames = [frame for frame in frames if frame.filename != __file__]
    own = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(folder) for folder in _OTHERS)]
    last = (own or frames)[-1:]
    return "".join(f"{frame.filename}, line {frame.lineno}: " for frame in last) + said
