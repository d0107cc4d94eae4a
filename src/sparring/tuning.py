"""Search for settings: runs of one recipe with other overrides, by the accuracy under attack on held-out images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparring import api, configuration
from sparring.errors import BadInput
from sparring.experiment import train
from sparring.files import read_text, replacing
from sparring.randomness import seed_from
from sparring.training import Diverged
from sparring.training.progress import Reporter

if TYPE_CHECKING:
    import optuna

Search = Literal["bayes", "random"]
_RANGE = re.compile(r"(?P<log>log:)?(?P<low>-?[\d.e+-]+?)\.\.(?P<high>-?[\d.e+-]+)")
_BEFORE_MODEL = 5  # trials that a Bayesian search draws at random before it has a model


@dataclass(frozen=True)
class Parameter:
    """A key of the experiment, such as optimisation.lr, and what it may be: one of several texts, or a number of a range."""

    key: str
    choices: tuple[str, ...] = ()
    low: float | int = 0
    high: float | int = 0
    log: bool = False  # whether the range is searched on a logarithmic scale


def parameter(words: Sequence[str]) -> Parameter:
    """Return what is tried of a key, as `--try` has it: the key and its values, or LOW..HIGH, or log:LOW..HIGH.

    Raises BadInput for a key alone, for a single value, and for a range that is none.
    """
    key, *values = words
    if not values:
        raise BadInput(f"--try {key} has no values: write such as --try {key} 1 2 4, or --try {key} 0.01..0.3.")
    if len(values) > 1:
        return Parameter(key, tuple(values))
    if not (found := _RANGE.fullmatch(values[0])):
        raise BadInput(f"--try {key} {values[0]} is one value: give several, or a range such as 0.01..0.3.")
    low, high = (_number(key, found[name]) for name in ("low", "high"))
    if not low < high or (found["log"] and low <= 0):
        raise BadInput(f"--try {key} {values[0]} is no range: give a lower and a higher number, above 0 after log:.")
    return Parameter(key, (), low, high, bool(found["log"]))


def _number(key: str, text: str) -> float | int:
    try:
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
    except ValueError as error:
        raise BadInput(f"--try {key}: {text} is not a number.") from error


@dataclass(frozen=True)
class Trial:
    """What one run of the search was trained with, and how it went."""

    settings: dict[str, str]
    folder: str  # below the search's own
    robust: float | None  # of the best epoch, a fraction of the held-out images; None where training diverged
    clean: float | None  # of that epoch
    minutes: float  # of training


@dataclass(frozen=True)
class Tuning:
    """A search in a folder, which goes on where it was stopped: trial n depends on the seed and the trials before it.

    Args:
        recipe: a recipe or a YAML file.
        overrides: of the command line, for all trials.
        space: what is tried, at least one key.
        folder: of the runs and of trials.json.
        search: bayes is Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), random draws each value
            evenly.
        seed: of what is tried, not of the runs.
    """

    recipe: str
    overrides: tuple[str, ...]
    space: tuple[Parameter, ...]
    folder: Path
    search: Search = "bayes"
    seed: int = 0

    @cached_property
    def _asked(self) -> dict[str, Any]:
        """What a search is of: another one may not go on with its trials."""
        return {
            "experiment": configuration.to_yaml(api.recipe(self.recipe, self.overrides)),
            "tried": [asdict(parameter) | {"choices": list(parameter.choices)} for parameter in self.space],
            "search": self.search,
            "seed": self.seed,
        }

    @property
    def file(self) -> Path:
        """What was tried so far."""
        return self.folder / "trials.json"

    def done(self) -> list[Trial]:
        """Return the finished trials; raises BadInput where the folder holds another search, or something damaged."""
        if not self.file.exists():
            return []
        try:
            held = json.loads(read_text(self.file))
            asked, trials = held["asked"], [Trial(**trial) for trial in held["trials"]]
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(f"{self.file} is damaged, or of no search: restore it, or choose another --out.") from error
        if asked != self._asked:
            raise BadInput(
                f"{self.folder} holds a search of another experiment, or in another way: choose another --out, or give the "
                "recipe, its overrides and --try, --search and --search-seed as they were."
            )
        return trials

    def run(
        self,
        trials: int,
        *,
        report: Callable[[], Reporter],
        note: Callable[[str], None] = lambda text: None,
    ) -> list[Trial]:
        """Train until there are so many trials, and return all of them; `note` is told what is tried.

        Raises:
            BadInput: less than one trial, no Optuna, settings that cannot be, a folder of another search.
            Interrupted: Ctrl-C; the same call goes on with the run that was stopped.
        """
        if trials < 1:
            raise BadInput(f"--trials must be at least 1, not {trials}.")
        done = self.done()
        while len(done) < trials:
            settings = self._proposed(done)
            words = " ".join(f"--{key} {value}" for key, value in settings.items())
            note(f"Trial {len(done) + 1} of {trials}: {words}")
            done.append(self._tried(settings, f"trial-{len(done):04}", report))
            with replacing(self.file) as temporary:
                content = {"asked": self._asked, "trials": [asdict(trial) for trial in done]}
                temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return done

    def _tried(self, settings: Mapping[str, str], name: str, report: Callable[[], Reporter]) -> Trial:
        overrides = [word for key, value in settings.items() for word in (f"--{key}", value)]
        experiment = api.recipe(self.recipe, (*self.overrides, *overrides))
        try:
            run = train(experiment, self.folder / name, resume=True, report=report())
        except Diverged:
            return Trial(dict(settings), name, None, None, 0.0)
        rows = run.metrics()
        best = max(rows, key=lambda row: row["robust"])
        return Trial(
            dict(settings), name, best["robust"], best["clean"], sum(row["train_seconds"] for row in rows) / 60
        )

    def _proposed(self, done: Sequence[Trial]) -> dict[str, str]:
        """Return what to try next: a function of the seed and of what was tried, so that a search can be taken up again."""
        optuna = _optuna()
        seed = seed_from(self.seed, len(done)) % 2**32
        samplers = optuna.samplers
        sampler = (
            samplers.TPESampler(seed=seed, n_startup_trials=_BEFORE_MODEL)
            if self.search == "bayes"
            else samplers.RandomSampler(seed=seed)
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        distributions = {parameter.key: _distribution(optuna, parameter) for parameter in self.space}
        for trial in done:
            values = {key: _inside(distributions[key], text) for key, text in trial.settings.items()}
            failed = trial.robust is None
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(state=state, params=values, distributions=distributions, value=trial.robust)
            )
        return {key: str(value) for key, value in study.ask(distributions).params.items()}


def _distribution(optuna: Any, parameter: Parameter) -> Any:
    kinds = optuna.distributions
    if parameter.choices:
        return kinds.CategoricalDistribution(parameter.choices)
    whole = isinstance(parameter.low, int) and isinstance(parameter.high, int)
    kind = kinds.IntDistribution if whole else kinds.FloatDistribution
    return kind(parameter.low, parameter.high, log=parameter.log)


def _inside(distribution: optuna.distributions.BaseDistribution, text: str) -> Any:
    """Return a value of a distribution from its text."""
    import optuna

    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return text
    return int(text) if isinstance(distribution, optuna.distributions.IntDistribution) else float(text)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise BadInput("A search needs Optuna, which is not installed: pip install 'sparring[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
