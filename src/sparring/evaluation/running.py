"""How an evaluation runs: attack by attack, search by search, on the images that are still correct."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparring import ranks
from sparring.attacks import Attack, Capacity, CountedModel, Pool, Search, SearchInputs, attackable
from sparring.data import batches
from sparring.errors import NotANumber
from sparring.evaluation.clock import Clock
from sparring.evaluation.function_attack import FunctionAttack
from sparring.evaluation.naming import NamedAttack
from sparring.evaluation.network import low_precision
from sparring.evaluation.optimised import ITSELF, Form, agrees, forms, logits_agree
from sparring.evaluation.outcome import CLEAN, OnProgress, Outcome, Outcomes, Stage
from sparring.evaluation.progress import Checkpoint, Progress
from sparring.precision import full_precision
from sparring.randomness import SampleStreams, repeatable, seed_from

if TYPE_CHECKING:
    from sparring.evaluation.evaluator import Evaluator

_COMPARED = 64  # images on which a faster form of the network has to answer as the network does
_LEAST, _MOST, _SHARE = 8, 32, 50  # failures that are tried again: one in 50, which costs 3% of that one search
_UNLUCKY = 8  # of so many failures one may be a success on the network itself, and one more: rounding decides some
_PATIENCE = {"cpu": 1, "cuda": 10}  # steps between two readings of what was found: on a GPU each makes the host wait


class EvaluationRun:
    """An evaluation on its way: runs its attacks one after the other, and goes on where a checkpoint says."""

    def __init__(self, evaluator: Evaluator, report: OnProgress, checkpoint: Checkpoint | None) -> None:
        self._evaluator, self._report, self._checkpoint = evaluator, report, checkpoint
        self._progress = checkpoint.read() if checkpoint else Progress()
        self._capacity = Capacity(evaluator.batch_size)
        count = len(evaluator.images)
        self._mine = torch.zeros(count, dtype=torch.bool)  # this process's share of the images
        self._mine[ranks.index() :: ranks.count()] = True
        self._verifier = CountedModel(evaluator.model)

    @torch.inference_mode(False)  # which lets autograd record under no_grad, too
    def outcomes(self, attacks: Sequence[NamedAttack]) -> Outcomes:
        """Return the result of all processes; raises BadInput for attacks that need more classes, and for NaN logits."""
        exact = full_precision() if self._evaluator.precision else nullcontext()
        with exact, attackable(self._evaluator.model, "eval"), self._progress.continued_draws():
            self._look_at_clean_images()
            for named in attacks:
                self._check(named.attack)
            for named in attacks:
                if isinstance(named.attack, FunctionAttack):
                    self._call(named.name, named.attack)
                elif named.attack is not None:
                    self._attack(named.name, named.attack)
        form = self._form.name if self._progress.stages else ""
        return Outcomes(tuple(self._outcome(named) for named in attacks), form)

    def _look_at_clean_images(self) -> None:
        if self._progress.clean is not None:
            return
        began = time.perf_counter()
        rows, parts = self._mine.nonzero()[:, 0], []
        while len(rows):
            now = rows[: self._capacity.rows]
            try:
                parts.append(self._verifier.clean_logits(self._fetch(now)[0]).cpu())
            except RuntimeError as error:
                self._capacity.shrink(error)
                continue
            rows = rows[len(now) :]
            self._report(CLEAN, 1 - len(rows) / len(self._mine))
        logits = torch.cat(parts) if parts else self._verifier.logits(self._fetch(torch.arange(1))[0]).cpu()[:0]
        if bool(logits.isnan().any()):
            raise NotANumber("The model returned NaN logits on clean images: an accuracy would mean nothing.")
        self._progress.clean = logits.new_zeros(len(self._mine), logits.shape[1])
        self._progress.clean[self._mine] = logits
        self._progress.clean_seconds = time.perf_counter() - began
        self._save()

    def _check(self, attack: Attack | FunctionAttack | None) -> None:
        """Raise BadInput now, not hours later, for what cannot be run on so few classes."""
        assert self._progress.clean is not None
        classes = self._progress.clean.shape[1]
        for search in attack.searches(classes, self._evaluator.threat).values() if isinstance(attack, Attack) else ():
            search.attempts(classes)

    def _call(self, name: str, attack: FunctionAttack) -> None:
        """Call a function batch by batch, with the default generators seeded anew for each, unless that is done."""
        if name in [stage.attack for stage in self._progress.stages]:
            return
        began, evaluator, kept = time.perf_counter(), self._evaluator, self._kept(name)
        correct, outside = self._clean_correct.clone(), 0
        rows = todo = correct.nonzero()[:, 0]
        while len(rows):
            now = rows[: self._capacity.rows]
            seed = seed_from(evaluator.seed, *name.encode(), int(evaluator.images.index[now[0]]))
            try:
                with repeatable(seed, torch.device(evaluator.device)):
                    found = attack.attempt(evaluator.model, self._verifier, *self._fetch(now), evaluator.threat)
            except RuntimeError as error:
                self._capacity.shrink(error)
                continue
            correct[now] = ~found.fooled
            outside += int(found.outside.sum())
            if kept is not None:
                kept[now] = found.images.cpu()
            rows = rows[len(now) :]
            self._report(name, 1 - len(rows) / len(todo))
        self._finish(Stage(name, "", correct, time.perf_counter() - began, 0, 0, {"outside": outside}))

    def _attack(self, name: str, attack: Attack) -> None:
        """Run the attack's searches that are not done yet."""
        assert self._progress.clean is not None
        for search_name, search in attack.searches(self._progress.clean.shape[1], self._evaluator.threat).items():
            done = [stage for stage in self._progress.stages if stage.attack == name]
            if search_name in [stage.name for stage in done]:
                continue
            self._search(name, search_name, search, done[-1].correct if done else self._clean_correct)

    def _search(self, attack: str, name: str, search: Search, correct: Tensor) -> None:
        """Run a search; again, on a slower form of the network, if the one that it ran answers otherwise where it ended."""
        progress, title = self._progress, f"{attack} {name}".strip()
        while True:
            pool = self._pool(attack, name, search, correct)
            clock = Clock(progress.spent, self._searched, self._verifier)
            for done in pool.run():
                self._report(title, done)
                if self._checkpoint and self._checkpoint.due:
                    progress.running, progress.spent = pool.state_dict(), clock.spent
                    self._save()
            retried, confirmed = self._retry(attack, name, search, correct & ~pool.fooled)
            if self._holds(pool.ends, retried - confirmed, retried):
                break
            progress.running, progress.spent = {}, clock.spent
            self._take_next_form()
        self._report(title, 1.0)
        settings = search.describe(self._evaluator.threat)
        self._finish(Stage(attack, name, correct & ~pool.fooled, *clock.spent, settings, retried, confirmed))

    def _retry(self, attack: str, name: str, search: Search, failures: Tensor) -> tuple[int, int]:
        """Try an attack's first search again on the network itself, on some of the images (N,) that it did not fool.

        Return how many these were and how many of them it did not fool there either; their passes are not counted.
        """
        first = all(stage.attack != attack for stage in self._progress.stages)
        rows = failures.nonzero()[:, 0]
        if self._form.name == ITSELF or not first or not len(rows):
            return 0, 0
        count = min(_MOST, max(_LEAST, len(rows) // _SHARE), len(rows))
        rows = rows[torch.linspace(0, len(rows) - 1, count).long()]
        itself = CountedModel(self._evaluator.model)
        pool = self._pool_on(itself, itself, attack, name, search, rows)
        with repeatable(self._evaluator.seed, torch.device(self._evaluator.device)):  # networks may draw
            for _ in pool.run():
                pass
        return count, int((~pool.fooled[rows]).sum())

    def _holds(self, ends: Tensor, refuted: int, retried: int) -> bool:
        """Return whether the form that searches run may be believed, by where one ended and what became of its failures."""
        if self._form.name == ITSELF:
            return True
        if len(ends) and not logits_agree(self._form, self._evaluator.model, ends):
            return False
        # Sixteen bits are the user's choice: what they miss is said, and every form of the network misses it.
        return self._evaluator.precision == "search16" or refuted <= 1 + retried // _UNLUCKY

    def _pool(self, attack: str, name: str, search: Search, correct: Tensor) -> Pool:
        """Return the pool of a search on the images that are correct, as it was left or at its beginning."""
        rows, kept = correct.nonzero()[:, 0], self._kept(attack)
        pool = self._pool_on(self._searched, self._verifier, attack, name, search, rows, kept)
        if self._progress.running:
            pool.load_state_dict(self._progress.running, self._evaluator.device)
        return pool

    def _pool_on(
        self,
        model: CountedModel,
        verifier: CountedModel,
        attack: str,
        name: str,
        search: Search,
        rows: Tensor,
        kept: Tensor | None = None,
    ) -> Pool:
        """Return the pool of a search on a network, at its beginning; an image's draws are the same on every network."""
        evaluator, clean = self._evaluator, self._progress.clean
        assert clean is not None
        seed = seed_from(evaluator.seed, *attack.encode(), *name.encode())
        inputs = SearchInputs(self._fetch, clean, SampleStreams(seed, evaluator.images.index))
        patience = _PATIENCE.get(torch.device(evaluator.device).type, 1)
        return Pool(search, inputs, evaluator.threat, model, verifier, rows, self._capacity, patience, kept)

    def _kept(self, attack: str) -> Tensor | None:
        """Return the images (N, C, H, W), on the CPU, that the attack writes into, where they are asked for."""
        kept = self._progress.images
        if self._evaluator.keep and attack not in kept:
            kept[attack] = self._fetch(torch.arange(len(self._mine)), "cpu")[0]
        return kept.get(attack)

    def _finish(self, stage: Stage) -> None:
        self._progress.stages.append(stage)
        self._progress.running, self._progress.spent = {}, (0.0, 0, 0)
        if self._checkpoint:
            self._checkpoint.write(self._progress)

    def _save(self) -> None:
        if self._checkpoint and self._checkpoint.due:
            self._checkpoint.write(self._progress)

    def _outcome(self, named: NamedAttack) -> Outcome:
        """Return the result of all processes together."""
        progress, attack = self._progress, named.attack
        if attack is None:
            return Outcome(named.name, self._together(self._clean_correct), progress.clean_seconds, {})
        images = progress.images.get(named.name)
        if images is not None:
            images = self._sum(torch.where(self._mine.view(-1, 1, 1, 1), images, 0))
        stages = [stage for stage in progress.stages if stage.attack == named.name]
        if isinstance(attack, FunctionAttack):
            (stage,) = stages
            rounding = self._evaluator.threat.geometry.rounding(self._evaluator.images.pixels.shape[1:].numel())
            settings = attack.describe(self._total(stage.settings["outside"]), rounding)
            if named.identity:
                settings["code"] = hashlib.sha256(named.identity.encode()).hexdigest()[:8]
            return Outcome(named.name, self._together(stage.correct), stage.seconds, settings, (), images)
        together = tuple(
            replace(
                stage,
                correct=self._together(stage.correct),
                forwards=self._total(stage.forwards),
                backwards=self._total(stage.backwards),
                retried=self._total(stage.retried),
                confirmed=self._total(stage.confirmed),
            )
            for stage in stages
        )
        settings = attack.describe(self._evaluator.threat)
        if named.definition:
            settings = {"definition": named.definition, **settings}
        seconds = sum(stage.seconds for stage in stages)
        return Outcome(named.name, together[-1].correct, seconds, settings, together, images)

    def _together(self, correct: Tensor) -> Tensor:
        return self._sum(correct.to(torch.int32)) > 0

    def _total(self, count: str | int) -> int:
        return int(self._sum(torch.tensor(int(count))))

    def _sum(self, value: Tensor) -> Tensor:
        return ranks.total(value.to(self._evaluator.device)).cpu()

    @cached_property
    def _clean_correct(self) -> Tensor:
        """(N,) bool; False for the images of other processes."""
        assert self._progress.clean is not None
        return (self._progress.clean.argmax(1) == self._evaluator.images.labels) & self._mine

    @cached_property
    def _forms(self) -> Iterator[Form]:
        """The forms of the network that answer as it does, the fastest first, as far as they have not been given up."""
        model, rows = self._evaluator.model, self._mine.nonzero()[: min(_COMPARED, self._capacity.rows), 0]
        x = self._fetch(rows if len(rows) else torch.arange(1))[0]
        return (
            form for form in forms(model, x) if form.name == ITSELF or agrees(form, model, x, self._evaluator.threat)
        )

    @cached_property
    def _form(self) -> Form:
        """The form that searches run."""
        return Form(ITSELF, self._evaluator.model) if self._evaluator.precision is None else next(self._forms)

    @cached_property
    def _searched(self) -> CountedModel:
        """The network that searches run."""
        low = low_precision(self._evaluator.device) if self._evaluator.precision == "search16" else None
        return CountedModel(self._form.network, low, self._form.layout)

    def _take_next_form(self) -> None:
        self._form = next(self._forms)
        del self._searched  # made of the form

    def _fetch(self, rows: Tensor, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        device = self._evaluator.device if device is None else device
        batch = next(batches(self._evaluator.images.subset(rows), len(rows), device))
        return batch.x, batch.y
