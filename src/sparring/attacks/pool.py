"""The pool: as many attempts side by side as the network takes at once; finished ones leave, and the next ones enter.

So a batch stays full across images, targets and restarts. When an attempt fools an image, the later attempts on it are
dropped; the earlier ones go on, so that the image found does not depend on how many were in the pool at once. No success
counts before the verifier, the network in full precision, has confirmed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.capacity import Capacity
from sparring.attacks.search import CountedModel, Search, SearchState
from sparring.errors import NotANumber
from sparring.randomness import SampleStreams
from sparring.threat import Threat, per_sample

_SEARCH = "lanes."  # before the names of the search's own state; files of earlier versions have it
_NOBODY = 1 << 62  # greater than any attempt's number
_SAMPLE = 32  # images that are kept of those that attempts ended with
_ROOM = 8  # new attempts enter when one in so many places is free: entering copies everything


@dataclass(frozen=True)
class SearchInputs:
    """The images under attack, known by their rows 0 .. N-1."""

    fetch: Callable[[Tensor], tuple[Tensor, Tensor]]  # rows (L,), on the CPU -> x (L, C, H, W), y (L,), on the device
    clean: Tensor  # (N, K), the network's logits of the images, on the CPU
    streams: SampleStreams  # of the N images, on the CPU


class Pool:
    """One search on some images, from its first step to its last.

    Args:
        search: what is tried.
        inputs: all images; `rows` are those to be attacked.
        threat: the ball; images outside it do not count as found.
        model: the network that the search runs.
        verifier: the network that confirms what the search has found.
        rows: (M,), on the CPU.
        capacity: attempts at a time.
        patience: steps between two readings of what has been found; each makes the host wait for the device.
        images: (N, C, H, W), on the CPU, into which the last image of every attempt is written; None keeps none.
    """

    def __init__(
        self,
        search: Search,
        inputs: SearchInputs,
        threat: Threat,
        model: CountedModel,
        verifier: CountedModel,
        rows: Tensor,
        capacity: Capacity,
        patience: int = 1,
        images: Tensor | None = None,
    ) -> None:
        self._search, self._inputs, self._threat = search, inputs, threat
        self._model, self._verifier, self._capacity = model, verifier, capacity
        self._patience, self._images = patience, images
        self._tries = tries = search.attempts(inputs.clean.shape[1])
        # All images are tried once before any is tried twice: one fooled early needs no more.
        self._pending = torch.stack([rows.repeat(tries), torch.arange(tries).repeat_interleave(len(rows))], 1)
        self._jobs = self._pending[:0]  # (L, 2): the image's row and the attempt's number
        self._state: SearchState | None = None
        self._steps = torch.zeros(0, dtype=torch.int64)  # (L,), the steps taken, known on the host
        self._iterations = 0
        self._ends = torch.empty(0)
        self._work = len(self._pending) * search.max_steps
        self._winner = torch.full((len(inputs.clean),), _NOBODY)  # (N,), the first attempt that fooled the image

    @property
    def ends(self) -> Tensor:
        """Some of the images (at most 32, C, H, W) that attempts ended with, as they were verified; on the device."""
        return self._ends

    @property
    def fooled(self) -> Tensor:
        """Which images were fooled, and confirmed: (N,) bool, on the CPU."""
        return self._winner < _NOBODY

    def run(self) -> Iterator[float]:
        """Attack until all is done; yield the fraction done after every reading of what was found."""
        while self._enter():
            self._step()
            if self._iterations % self._patience == 0 or bool((self._steps >= self._search.max_steps).any()):
                self._finish()
                yield self._done()

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that `load_state_dict` needs to go on from here to the same end."""
        state = {"pending": self._pending, "jobs": self._jobs, "steps": self._steps, "winner": self._winner}
        state["work"] = torch.tensor([self._work, self._iterations])
        if self._state is not None:
            state |= {f"{_SEARCH}{name}": value for name, value in self._state.tensors().items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device | str) -> None:
        """Go on where `state_dict` was called, with the attempts on `device`."""
        self._pending, self._jobs, self._steps = state["pending"], state["jobs"], state["steps"]
        self._winner = state["winner"]
        self._work, self._iterations = state["work"].tolist()
        own = {
            name.removeprefix(_SEARCH): value.to(device) for name, value in state.items() if name.startswith(_SEARCH)
        }
        self._state = self._search.state_type(**own) if own else None

    def _enter(self) -> bool:
        """Fill free places from the queue; return whether any attempt is left."""
        free = self._capacity.rows - len(self._jobs)
        if len(self._pending) and (self._state is None or free * _ROOM >= self._capacity.rows):
            chosen, self._pending = self._pending[:free], self._pending[free:]
            chosen = chosen[chosen[:, 1].argsort(stable=True)]  # attempts begin number by number
            arrivals = [self._begin(chosen[chosen[:, 1] == attempt]) for attempt in sorted(set(chosen[:, 1].tolist()))]
            self._state = type(arrivals[0]).joined(arrivals if self._state is None else [self._state, *arrivals])
            self._jobs = torch.cat([self._jobs, chosen])
            self._steps = torch.cat([self._steps, torch.zeros(len(chosen), dtype=torch.int64)])
        return self._state is not None

    def _begin(self, jobs: Tensor) -> SearchState:
        rows, attempt = jobs[:, 0], int(jobs[0, 1])
        x, y = self._inputs.fetch(rows)
        streams = self._inputs.streams.of(rows)
        clean = self._inputs.clean[rows].to(x)
        return self._search.init(x, y, clean, attempt, streams.at(streams.stage + attempt), self._threat)

    def _step(self) -> None:
        assert self._state is not None
        state = self._state
        try:
            moved = self._search.step(self._model, state, self._threat)
        except RuntimeError as error:
            self._capacity.shrink(error)
            self._put_back(self._capacity.rows)
            return
        self._state = replace(
            moved,
            step=state.step + 1,
            found=state.found | moved.found,
            candidate=torch.where(per_sample(moved.found, state.x), moved.candidate, state.candidate),
        )
        self._steps = self._steps + 1
        self._iterations += 1

    def _put_back(self, kept: int) -> None:
        """Let the attempts that do not fit start again later."""
        assert self._state is not None
        self._pending = torch.cat([self._jobs[kept:], self._pending])
        self._keep(torch.arange(len(self._jobs)) < kept)

    def _finish(self) -> None:
        """Verify what was found and what has come to its end, and let both go; an attempt whose find was denied goes on."""
        assert self._state is not None
        state = self._state
        ended = self._steps >= self._search.max_steps
        due = (state.found.cpu() | ended).nonzero()[:, 0]
        if len(due) == 0:
            return
        leaving = state.rows(due.to(state.x.device))
        images = torch.where(per_sample(leaving.found, leaving.x), leaving.candidate, leaving.point)
        images, confirmed = self._verify(images, leaving)
        denied = leaving.found.cpu() & ~confirmed & ended[due]
        if bool(denied.any()):  # the attempt's last point has not been verified yet
            last, successful = self._verify(leaving.point, leaving)
            images = torch.where(per_sample(denied.to(last.device), last), last, images)
            confirmed |= denied & successful
        self._note(self._jobs[due], images, confirmed)
        self._state = replace(state, found=state.found.index_fill(0, due.to(state.x.device), False))
        self._pending = self._pending[self._wanted(self._pending)]
        self._keep(~ended & self._wanted(self._jobs))

    def _verify(self, images: Tensor, state: SearchState) -> tuple[Tensor, Tensor]:
        """Return images (L, C, H, W), the originals where they lie outside the threat, and which are misclassified (L,)."""
        allowed = self._threat.eps + self._threat.geometry.rounding(state.x.shape[1:].numel())
        outside = self._threat.size(images - state.x) > allowed
        images = torch.where(per_sample(outside, images), state.x, images)
        if len(self._ends) < _SAMPLE:
            self._ends = torch.cat([self._ends.to(images), images[: _SAMPLE - len(self._ends)]])
        logits = self._verifier.logits(images)
        if bool(logits.isnan().any()):
            raise NotANumber("The model returned NaN logits under attack: an accuracy would mean nothing.")
        return images, (logits.argmax(1) != state.y).cpu()

    def _note(self, jobs: Tensor, images: Tensor, confirmed: Tensor) -> None:
        """Keep the images of the attempts that ended: a success counts unless an earlier attempt succeeded, too."""
        rows, attempts = jobs.unbind(1)
        self._winner.scatter_reduce_(0, rows[confirmed], attempts[confirmed], "amin")
        last = ~self.fooled[rows] & (attempts == self._tries - 1)
        which = last | confirmed & (attempts == self._winner[rows])
        if self._images is not None:
            self._images[rows[which]] = images[which.to(images.device)].to(self._images)

    def _wanted(self, jobs: Tensor) -> Tensor:
        """Return which attempts (M, 2) may still matter: no earlier one has fooled their image."""
        return jobs[:, 1] < self._winner[jobs[:, 0]]

    def _keep(self, which: Tensor) -> None:
        assert self._state is not None
        if bool(which.all()):
            return
        self._state = self._state.rows(which.nonzero()[:, 0].to(self._state.x.device)) if bool(which.any()) else None
        self._jobs, self._steps = self._jobs[which], self._steps[which]

    def _done(self) -> float:
        left = len(self._pending) * self._search.max_steps + int((self._search.max_steps - self._steps).sum())
        return 1 - left / max(self._work, 1)
