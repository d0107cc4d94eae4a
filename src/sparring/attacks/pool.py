"""The pool: as many attempts side by side as the network takes at once; who is done leaves, and the next ones enter.

So a batch stays full across images, targets and restarts. An image that is fooled by one attempt takes its later
attempts with it; the earlier ones go on, so that the image found does not depend on how many were in the pool at once.
No success counts before the judge, the network in full precision, has confirmed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.capacity import Capacity
from sparring.attacks.search import Lanes, Probe, Search
from sparring.errors import BadInput
from sparring.randomness import SampleStreams
from sparring.threat import Threat, spread

_NOBODY = 1 << 62  # greater than any attempt's number
_ROOM = 8  # new attempts enter when one in so many places is free: entering copies everything


@dataclass(frozen=True)
class Subjects:
    """The images under attack, which are known by their rows 0 .. N-1."""

    fetch: Callable[[Tensor], tuple[Tensor, Tensor]]  # rows (L,), on the CPU -> x (L, C, H, W), y (L,), on the device
    clean: Tensor  # (N, K), the network's logits of the images, on the CPU
    streams: SampleStreams  # of the N images, on the CPU


class Pool:
    """One search on some images, from its first turn to its last.

    Args:
        search: what is tried.
        subjects: all images; `rows` are those to be attacked.
        threat: the ball; images outside it do not count as found.
        probe: the network that the search asks.
        judge: the network that confirms what the search has found.
        rows: (M,), on the CPU.
        capacity: attempts at a time.
        patience: turns between two looks at what has been found; each look makes the host wait for the device.
        images: (N, C, H, W), on the CPU, into which the last image of every attempt is written; None keeps none.
    """

    def __init__(
        self,
        search: Search,
        subjects: Subjects,
        threat: Threat,
        probe: Probe,
        judge: Probe,
        rows: Tensor,
        capacity: Capacity,
        patience: int = 1,
        images: Tensor | None = None,
    ) -> None:
        self._search, self._subjects, self._threat = search, subjects, threat
        self._probe, self._judge, self._capacity = probe, judge, capacity
        self._patience, self._images = patience, images
        self._tries = tries = search.attempts(subjects.clean.shape[1])
        # All images are tried once before any is tried twice: who is fooled early needs no more.
        self._pending = torch.stack([rows.repeat(tries), torch.arange(tries).repeat_interleave(len(rows))], 1)
        self._jobs = self._pending[:0]  # (L, 2): row and attempt of each lane
        self._lanes: Lanes | None = None
        self._steps = torch.zeros(0, dtype=torch.int64)  # (L,), the lanes' steps, known on the host
        self._turns = 0
        self._work = len(self._pending) * search.length
        self._winner = torch.full((len(subjects.clean),), _NOBODY)  # (N,), the first attempt that fooled the image

    @property
    def fooled(self) -> Tensor:
        """Which images were fooled, and confirmed: (N,) bool, on the CPU."""
        return self._winner < _NOBODY

    def run(self) -> Iterator[float]:
        """Attacks until all is done; yields the fraction done after every look at what was found."""
        while self._enter():
            self._advance()
            if self._turns % self._patience == 0 or bool((self._steps >= self._search.length).any()):
                self._settle()
                yield self._done()

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs to go on from here to the same end."""
        state = {"pending": self._pending, "jobs": self._jobs, "steps": self._steps, "winner": self._winner}
        state["work"] = torch.tensor([self._work, self._turns])
        if self._lanes is not None:
            state |= {f"lanes.{name}": value for name, value in self._lanes.tensors().items()}
        return state

    def restore(self, state: dict[str, Tensor], device: torch.device | str) -> None:
        """Goes on where `state` was taken."""
        self._pending, self._jobs, self._steps = state["pending"], state["jobs"], state["steps"]
        self._winner = state["winner"]
        self._work, self._turns = state["work"].tolist()
        lanes = {name.removeprefix("lanes."): value for name, value in state.items() if name.startswith("lanes.")}
        self._lanes = self._search.lanes(**{name: value.to(device) for name, value in lanes.items()}) if lanes else None

    def _enter(self) -> bool:
        """Fills free places from the queue; False when nobody is left."""
        free = self._capacity.rows - len(self._jobs)
        if len(self._pending) and (self._lanes is None or free * _ROOM >= self._capacity.rows):
            chosen, self._pending = self._pending[:free], self._pending[free:]
            chosen = chosen[chosen[:, 1].argsort(stable=True)]  # attempts are opened number by number
            arrivals = [self._open(chosen[chosen[:, 1] == attempt]) for attempt in sorted(set(chosen[:, 1].tolist()))]
            self._lanes = type(arrivals[0]).joined(arrivals if self._lanes is None else [self._lanes, *arrivals])
            self._jobs = torch.cat([self._jobs, chosen])
            self._steps = torch.cat([self._steps, torch.zeros(len(chosen), dtype=torch.int64)])
        return self._lanes is not None

    def _open(self, jobs: Tensor) -> Lanes:
        rows, attempt = jobs[:, 0], int(jobs[0, 1])
        x, y = self._subjects.fetch(rows)
        streams = self._subjects.streams.of(rows)
        clean = self._subjects.clean[rows].to(x)
        return self._search.open(x, y, clean, attempt, streams.at(streams.stage + attempt), self._threat)

    def _advance(self) -> None:
        assert self._lanes is not None
        lanes = self._lanes
        try:
            moved = self._search.advance(self._probe, lanes, self._threat)
        except RuntimeError as error:
            self._capacity.shrink(error)
            self._put_back(self._capacity.rows)
            return
        self._lanes = replace(
            moved,
            step=lanes.step + 1,
            found=lanes.found | moved.found,
            candidate=torch.where(spread(moved.found, lanes.x), moved.candidate, lanes.candidate),
        )
        self._steps = self._steps + 1
        self._turns += 1

    def _put_back(self, kept: int) -> None:
        """The attempts that do not fit start again later."""
        assert self._lanes is not None
        self._pending = torch.cat([self._jobs[kept:], self._pending])
        self._keep(torch.arange(len(self._jobs)) < kept)

    def _settle(self) -> None:
        """Judges what has been found and what has come to its end, and lets both go; who was found wrongly goes on."""
        assert self._lanes is not None
        lanes = self._lanes
        ended = self._steps >= self._search.length
        due = (lanes.found.cpu() | ended).nonzero()[:, 0]
        if len(due) == 0:
            return
        judged = lanes.rows(due.to(lanes.x.device))
        images = torch.where(spread(judged.found, judged.x), judged.candidate, judged.point)
        images, confirmed = self._judged(images, judged)
        denied = judged.found.cpu() & ~confirmed & ended[due]
        if bool(denied.any()):  # the attempt's last point has not been judged yet
            last, successful = self._judged(judged.point, judged)
            images = torch.where(spread(denied.to(last.device), last), last, images)
            confirmed |= denied & successful
        self._note(self._jobs[due], images, confirmed)
        self._lanes = replace(lanes, found=lanes.found.index_fill(0, due.to(lanes.x.device), False))
        self._pending = self._pending[self._wanted(self._pending)]
        self._keep(~ended & self._wanted(self._jobs))

    def _judged(self, images: Tensor, lanes: Lanes) -> tuple[Tensor, Tensor]:
        """Images (L, C, H, W), the originals where they lie outside the threat; which are misclassified (L,), on the CPU."""
        allowed = self._threat.eps + self._threat.geometry.rounding(lanes.x.shape[1:].numel())
        outside = self._threat.size(images - lanes.x) > allowed
        images = torch.where(spread(outside, images), lanes.x, images)
        logits = self._judge.logits(images)
        if bool(logits.isnan().any()):
            raise BadInput("The model returned NaN logits under attack: an accuracy would mean nothing.")
        return images, (logits.argmax(1) != lanes.y).cpu()

    def _note(self, jobs: Tensor, images: Tensor, confirmed: Tensor) -> None:
        """The images of the attempts that ended: an attempt that succeeded counts unless an earlier one did, too."""
        rows, attempts = jobs.unbind(1)
        self._winner.scatter_reduce_(0, rows[confirmed], attempts[confirmed], "amin")
        last = ~self.fooled[rows] & (attempts == self._tries - 1)
        which = last | confirmed & (attempts == self._winner[rows])
        if self._images is not None:
            self._images[rows[which]] = images[which.to(images.device)].to(self._images)

    def _wanted(self, jobs: Tensor) -> Tensor:
        """Which attempts (M, 2) may still matter: no earlier one has fooled their image."""
        return jobs[:, 1] < self._winner[jobs[:, 0]]

    def _keep(self, which: Tensor) -> None:
        assert self._lanes is not None
        if bool(which.all()):
            return
        self._lanes = self._lanes.rows(which.nonzero()[:, 0].to(self._lanes.x.device)) if bool(which.any()) else None
        self._jobs, self._steps = self._jobs[which], self._steps[which]

    def _done(self) -> float:
        left = len(self._pending) * self._search.length + int((self._search.length - self._steps).sum())
        return 1 - left / max(self._work, 1)
