"""What a person sees while a run trains: a live bar with the time left on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typing_extensions import override

from sparring.training.run import Row


class Reporter(ABC):
    """Follows a run: `begin`, a `step` for every batch, an `epoch` for every epoch. Used as a context manager."""

    @abstractmethod
    def begin(self, title: str, total: int, done: int) -> None:
        """Begin a run of `total` steps of which `done` lie behind."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Report something worth a line."""

    @abstractmethod
    def step(self) -> None:
        """Report that one more step is done."""

    @abstractmethod
    def epoch(self, row: Row) -> None:
        """Report that an epoch is done; `row` is its line in metrics.csv."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 - not every reporter has something to close
        pass


def reporter(console: Console) -> Reporter:
    """Return a live display on a terminal, plain lines in a file or a pipe."""
    return _Live(console) if console.is_terminal else _Plain(console)


class Silent(Reporter):
    """Says nothing."""

    @override
    def begin(self, title: str, total: int, done: int) -> None:
        pass

    @override
    def note(self, text: str) -> None:
        pass

    @override
    def step(self) -> None:
        pass

    @override
    def epoch(self, row: Row) -> None:
        pass


class _Plain(Reporter):
    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, title: str, total: int, done: int) -> None:
        self._console.print(f"{title}: {total} steps" + (f", {done} of them done" if done else ""))

    def note(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def step(self) -> None:
        pass

    def epoch(self, row: Row) -> None:
        self._console.print(_line(row))


class _Live(Reporter):
    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )

    def begin(self, title: str, total: int, done: int) -> None:
        self._task = self._progress.add_task(title, total=total, completed=done)

    def note(self, text: str) -> None:
        self._progress.console.print(text, soft_wrap=True)

    def step(self) -> None:
        self._progress.advance(self._task)

    def epoch(self, row: Row) -> None:
        self._progress.console.print(_line(row))

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()


class EvaluationProgress:
    """A live bar for each attack of an evaluation on a terminal; silent elsewhere. Used as a context manager."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def tick(self, attack: str, done: float) -> None:
        """Report that this fraction of the attack is done."""
        if attack not in self._tasks:
            self._tasks[attack] = self._progress.add_task(attack, total=1.0)
        self._progress.update(self._tasks[attack], completed=done)

    def __enter__(self) -> EvaluationProgress:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()


def _line(row: Row) -> str:
    return (
        f"epoch {row['epoch']:>3.0f}  loss {row['train_loss']:.3f}  train {row['train_accuracy']:.1%}  "
        f"clean {row['clean']:.1%}  robust {row['robust']:.1%}  {row['train_seconds']:.1f} s"
    )
