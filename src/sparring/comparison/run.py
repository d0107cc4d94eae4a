"""All runs of a table, one after another or several at a time, until they are done or the time is up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import torch

from sparring.comparison.job import Job
from sparring.comparison.scale import SCALES
from sparring.data import load
from sparring.errors import BadInput, unknown
from sparring.results.talk import TalkTable
from sparring.training import Interrupted, Run
from sparring.training.progress import Reporter, Silent


def planned(
    talk: TalkTable, scale: str, *, seeds: int = 1, path: str | None = None, out: Path, only: Sequence[str] = ()
) -> list[Job]:
    """Return a job for each row that can be trained here and each seed, 0, 1 and so on; checked, but nothing is begun.

    Args:
        talk: the table.
        scale: a name in `SCALES`.
        seeds: how many, at least 1.
        path: of the images, see `Data`; or a folder of such folders, each called as its data set is here, such as cifar10.
        out: the folder of all runs at all scales.
        only: the printed names of rows; empty is all.

    Raises:
        BadInput: an unknown scale or row, settings or images that cannot be, a folder that holds another run.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    if seeds < 1:
        raise BadInput(f"--seeds must be at least 1, not {seeds}.")
    trainable = [row for row in talk.rows if row.recipe is not None]
    for name in only:
        if name not in (row.method for row in trainable):
            raise unknown(f"row of {talk.name}", name, [row.method for row in trainable])
    rows = [row for row in trainable if not only or row.method in only]
    return checked(
        [Job(row, SCALES[scale], seed, path, out / scale, talk.attacks) for seed in range(seeds) for row in rows]
    )


def checked(jobs: list[Job]) -> list[Job]:
    """Return the jobs; raises BadInput for images that cannot be, and for folders with another run or other images."""
    for data in {job.experiment().data.name: job for job in jobs}.values():
        data.splits()
    images: dict[str, str] = {}  # by how they are loaded, their fingerprint
    for job in jobs:
        source = job.experiment().data
        if not job.is_trained():
            continue
        if repr(source) not in images:
            images[repr(source)] = load(source).fingerprint
        present = images[repr(source)]
        if (held := Run(job.folder).data()["fingerprint"]) != present:
            raise BadInput(
                f"{job.folder} was trained on other images ({held}) than those of --data.path ({present}): give the folder "
                "of those, or another --out."
            )
    return jobs


def run(
    jobs: Sequence[Job],
    *,
    device: str,
    workers: int = 1,
    budget: float | None = None,
    report: Callable[[], Reporter] = Silent,
    note: Callable[[str], None] = lambda text: None,
) -> bool:
    """Do the jobs, those of the first seed first; return whether all are done.

    Args:
        jobs: what `planned` returned.
        device: where.
        workers: how many at a time, each in a process of its own.
        budget: seconds after which whatever runs is stopped, saved, and left for the next call; None is no end.
        report: makes what shows the progress of a training; for one worker only.
        note: is told in a sentence what begins, and what is left when the time is up.

    Raises:
        BadInput: a training or an evaluation that cannot go on.
        Interrupted: Ctrl-C; the same call goes on.
    """
    deadline = None if budget is None else time.time() + budget
    try:
        if workers == 1:
            with _stopped_at(deadline):
                for job in jobs:
                    job.work(device, report(), note)
            return True
        return _side_by_side(jobs, device, workers, deadline, note)
    except (Interrupted, KeyboardInterrupt) as stop:
        if deadline is not None and time.time() >= deadline:
            note("The time is up: the same command goes on.")
            return False
        raise Interrupted("Stopped: the same command goes on.") from stop


def _side_by_side(
    jobs: Sequence[Job], device: str, workers: int, deadline: float | None, note: Callable[[str], None]
) -> bool:
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(_in_process, job, device, threads, deadline): job for job in jobs}
        try:
            for future in as_completed(pending):
                note(f"{'Done' if future.result() else 'Left for the next call'}: {pending[future].folder.name}.")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return all(future.result() for future in pending)


def _in_process(job: Job, device: str, threads: int, deadline: float | None) -> bool:
    torch.set_num_threads(threads)
    if deadline is not None and time.time() >= deadline:
        return False
    try:
        with _stopped_at(deadline):
            job.work(device, Silent(), lambda text: None)
    except (Interrupted, KeyboardInterrupt):
        return False
    return True


@contextmanager
def _stopped_at(deadline: float | None) -> Iterator[None]:
    """Do as if Ctrl-C were pressed at that time (seconds since 1970)."""
    if deadline is None:
        yield
        return
    over = threading.Event()

    def press() -> None:
        if not over.wait(max(0.0, deadline - time.time())):
            os.kill(os.getpid(), signal.SIGINT)

    # A process that a script starts in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Thread(target=press, daemon=True)
    timer.start()
    try:
        yield
    finally:
        over.set()
        timer.join()
        signal.signal(signal.SIGINT, before)
