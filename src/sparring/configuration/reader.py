"""From settings to dataclasses: every value goes to its field, and what does not fit is answered in a sentence."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args

from sparring.configuration.classes import class_path, find, former_keys, keys, listed, paths, positional, without_none
from sparring.configuration.settings import Setting, from_short_form
from sparring.configuration.values import converted
from sparring.errors import BadInput, first_line, unknown
from sparring.importing import located
from sparring.threat import Ratio

T = TypeVar("T")

_COMMON = {"device": "accelerator", "learning_rate": "lr", "wd": "weight_decay"}  # what other tools call it


@dataclass(frozen=True)
class Reader:
    """Puts a dataclass `whole` together from settings of `origin` and the command line; later ones win.

    Where a `Ratio` is due, multiples of `radius` such as eps/4 stand for one.
    """

    whole: type
    origin: str
    radius: Ratio

    def section(self, kind: type[T], settings: Sequence[Setting], place: str = "", default: object = None) -> T:
        """Return a dataclass; fields that nothing is said of are as in `default`, or as the class has them."""
        hints, former, values = keys(kind), former_keys(kind), {}
        inside: dict[str, list[Setting]] = {name: [] for name in hints}
        for setting in (
            part for whole in settings for part in from_short_form(whole, place, lambda _: positional(kind))
        ):
            if setting.path and setting.path[0] in former:
                setting = self._renamed(setting, former[setting.path[0]])
            if setting.path:
                inside[self._known(setting, hints, place)].append(setting._replace(path=setting.path[1:]))
            elif setting.value != kind.__name__:
                known = f"{place} is a section with the keys {', '.join(hints)}"
                raise BadInput(f"{known}: {setting.value!r} cannot stand for it.")
        for f in (f for f in fields(kind) if f.init):  # type: ignore[arg-type]
            usual = f.default if f.default_factory is MISSING else f.default_factory()
            below = f"{place}.{f.name}" if place else f.name
            values[f.name] = self._value(hints[f.name], inside[f.name], below, getattr(default, f.name, usual))
        try:
            return kind(**values)
        except BadInput:
            raise
        except ValueError as error:
            raise BadInput(f"{place or self.origin}: {first_line(error)}.") from error
        except Exception as error:
            if kind.__module__.partition(".")[0] == "sparring":
                raise
            raise BadInput(f"{place} {class_path(kind)} cannot be made: {located(error)}.") from error

    def _value(self, hint: Any, settings: list[Setting], place: str, default: object) -> object:
        """Return a field's value, `default` (or MISSING) where nothing is said of it."""
        if not settings:
            if default is MISSING:
                raise self._missing(place)
            return default
        if NoneType in get_args(hint) and settings[-1][:2] == ((), None):
            return None
        kind = without_none(hint)
        if inspect.isabstract(kind):
            return self._choice(kind, settings, place, default)
        if is_dataclass(kind):
            return self.section(kind, settings, place, default)  # type: ignore[arg-type]
        for setting in settings:
            if setting.path:
                self._known(setting, (), place)
        return converted(hint, settings[-1].value, place, self.radius)

    def _choice(self, base: type[T], settings: list[Setting], place: str, default: object) -> T:
        """Return a dataclass of the class that was chosen last; what a file says of another class goes with that one.

        Options stay where they fit, as they may stand before the class that they are for.
        """
        chosen: type[T] | None = None
        kept: list[Setting] = []

        def names(name: str) -> list[str]:
            return positional(find(base, name, place))

        for setting in (part for whole in settings for part in from_short_form(whole, place, names)):
            if setting.path:
                kept.append(setting)
            elif setting.value is None:
                chosen, kept = None, [other for other in kept if other.option]
            elif isinstance(setting.value, str):
                former, chosen = chosen, find(base, setting.value, place)
                if former not in (None, chosen):
                    lost = keys(former).keys() - keys(chosen)
                    kept = [other for other in kept if other.option and other.path[0] not in lost]
            else:
                raise BadInput(
                    f"{place} needs a class_path, one of {listed(base)}: {setting.value!r} cannot stand for it."
                )
        if chosen:
            return self.section(chosen, kept, place)
        if kept and isinstance(default, base):
            return self.section(type(default), kept, place, default)
        raise BadInput(f"{place} must name its class, one of {listed(base)}.") if kept else self._missing(place)

    def _renamed(self, setting: Setting, present: str) -> Setting:
        """Return a setting of a former key under its present name, with a warning."""
        warnings.warn(f"The key {setting.path[0]} is called {present} now.", FutureWarning, stacklevel=2)
        return setting._replace(path=(present, *setting.path[1:]))

    def _unknown_option(self, option: str, fitting: Collection[str]) -> BadInput:
        """Return what to say of an option that is none: those whose last word it is, or the one spelled most like it."""
        last = option.rpartition(".")[2].lstrip("-").replace("-", "_").lower()
        meant = _COMMON.get(last, last)
        same = sorted((path for path in fitting if path == meant or path.endswith(f".{meant}")), key=_shallowest)
        # Keys of a class that might have been chosen are no answer: another one may have been.
        classes = tuple(name for name, hint in keys(self.whole).items() if inspect.isabstract(without_none(hint)))
        if not option.lstrip("-").startswith(classes):
            same = [path for path in same if not path.startswith(classes)]
        if not same or f"--{same[0]}" == option:
            return unknown("option", option, [f"--{path}" for path in fitting])
        shallow = [path for path in same if path.count(".") == same[0].count(".")][:2]
        return BadInput(
            f"Unknown option {option!r}: did you mean {' or '.join(repr(f'--{path}') for path in shallow)}?"
        )

    def _missing(self, place: str) -> BadInput:
        return BadInput(f"{self.origin} does not say which {place}: add the key {place}.")

    def _known(self, setting: Setting, known: Collection[str], place: str) -> str:
        """Return the key that a setting is for; raises BadInput, with the nearest, for one that is
        not known at this place.
        """
        key, prefix = setting.path[0], f"{place}." if place else ""
        named = setting.option == f"--{prefix}{'.'.join(setting.path)}"
        if key in known:
            if named and len(setting.path) == 1 and setting.value is ...:
                raise BadInput(f"{setting.option} needs a value.")
            return key
        every = set(paths(self.whole))
        fitting = {prefix + name for name in known}
        fitting |= {
            path for path in every if not path.startswith(prefix) or path.removeprefix(prefix).split(".")[0] in known
        }
        if named:
            raise self._unknown_option(setting.option, fitting)
        elsewhere = [path for path in fitting if path.rpartition(".")[2] == key]
        if elsewhere and prefix + key not in every:  # else it is of another class for this place
            nearest = min(elsewhere, key=_shallowest)
            where = " outside all sections" if nearest == key else ""
            raise BadInput(f"Unknown key {key!r}: did you mean {nearest!r}{where}?")
        raise unknown("key", key, known) if known else BadInput(f"Unknown key {key!r}: {place} has no keys.")


def _shallowest(path: str) -> tuple[int, str]:
    """Return what sorts the keys of fewer sections first."""
    return path.count("."), path
