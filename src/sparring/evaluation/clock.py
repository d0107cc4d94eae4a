"""What a search costs, over all the processes that it took."""

from __future__ import annotations

import time

from sparring.attacks import CountedModel


class Clock:
    """What a search has cost, with what it had cost before its process was replaced."""

    def __init__(self, before: tuple[float, int, int], *models: CountedModel) -> None:
        self._before, self._models = before, set(models)
        self._began = time.perf_counter(), *self._count()

    @property
    def spent(self) -> tuple[float, int, int]:
        """Seconds, forwards and backwards."""
        now = time.perf_counter(), *self._count()
        seconds, forwards, backwards = (
            before + end - start for before, end, start in zip(self._before, now, self._began, strict=True)
        )
        return float(seconds), int(forwards), int(backwards)

    def _count(self) -> tuple[int, int]:
        return sum(counted.forwards for counted in self._models), sum(counted.backwards for counted in self._models)
