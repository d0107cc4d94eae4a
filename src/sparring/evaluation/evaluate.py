"""The one way to a number that has a record: check, examine, attack, look for signs of masking, write down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparring import ranks
from sparring.attacks import check_model
from sparring.choices import check_kind
from sparring.data import Data, Images, Labelled, Splits, images_of
from sparring.data import load as load_data
from sparring.errors import BadInput
from sparring.evaluation.doctor import Finding, diagnose
from sparring.evaluation.doctor.case import said_by
from sparring.evaluation.evaluator import Evaluator
from sparring.evaluation.fit import check_fit
from sparring.evaluation.masking import suspicions
from sparring.evaluation.naming import Attacks, with_names
from sparring.evaluation.network import (
    Precision,
    auto_batch_size,
    check_batch_size,
    check_device,
    check_precision,
    pays_16_bits,
    untouched,
)
from sparring.evaluation.outcome import OnProgress, Outcomes, silent
from sparring.evaluation.progress import Checkpoint, fingerprint
from sparring.evaluation.record import (
    ModelSource,
    may_hold_examples,
    name_of,
    question,
    record,
    save_examples,
    write_record,
)
from sparring.evaluation.records import figures, file_of, merged
from sparring.files import check_writable, path_of
from sparring.randomness import check_seed
from sparring.threat import Threat, check_threat

_REGARDLESS = "(sparring doctor says more; --no-doctor, in Python doctor=False, goes on regardless.)"


@dataclass(frozen=True, repr=False)
class Evaluation(Outcomes):
    """The results of several attacks on the same images, and how they were obtained.

    Args:
        outcomes: one for each attack.
        form: of the network that searches ran.
        record: all that is needed to obtain the figures again, as plain values.
        findings: what the doctor said before and what is suspicious about the figures, errors first in each part.
        file: of the record, if it was written.
    """

    record: dict[str, Any] = field(kw_only=True)
    findings: tuple[Finding, ...] = field(kw_only=True)
    file: Path | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        """Return the accuracies, in percent, and what warnings and errors there are."""
        said = [f"{one.severity}: {one.seen}" for one in self.findings if one.severity != "note"]
        return "\n".join([super().__repr__(), *said])

    def save(self, path: str | Path) -> None:
        """Write the record to a .json file, joined with what that says of the same question.

        Raises BadInput for a file of another name, and for one that holds something else.
        """
        file = path_of("The record's file", path)
        if file.suffix.lower() != ".json":
            raise BadInput(f"A record is written as .json: name the file so, not {file}.")
        write_record(merged(self.record, file_of(file, self.record)), file)


@torch.inference_mode(False)  # which lets autograd record under no_grad, too
def evaluate(
    model: nn.Module,
    data: Data | Splits | Labelled,
    threat: Threat,
    attacks: Attacks = ("clean", "fgsm", "pgd-20"),
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    precision: Precision = "exact",
    doctor: bool = True,
    keep: bool = False,
    output: str | Path | None = None,
    examples: str | Path | None = None,
    source: ModelSource | None = None,
    progress: OnProgress = silent,
    note: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Return a network's accuracy on test images, clean and under attack, with the record of how it was found.

    Args:
        model: returns logits (B, K) of images (B, C, H, W) in [0, 1]; it is on `device`, and is left as it was.
        data: a configuration, which is loaded; loaded splits, of which the test images are used; images, or what they can
            be made from: a pair of pixels and labels, a torch Dataset or DataLoader (see `Images` and `images_of`). Float
            pixels are attacked as they are, not rounded to 8 bits.
        threat: what the adversary may do.
        attacks: names such as `clean`, `pgd-20` and `aa`, attacks, or functions (model, x, y, threat) -> adversarial
            images, of which those count that the network itself confirms; in a mapping they are called by its keys. One
            attack needs no list, and one text may name several: `clean,aa`.
        batch_size: images at a time; None chooses a number that fits.
        device: where the model is.
        seed: of the attacks' random starts.
        precision: of the search, see `Evaluator`.
        doctor: examine model, images and threat first, and refuse to go on where figures would be wrong.
        keep: whether the outcomes hold the adversarial images.
        output: the file of the record, whose name ends in .json, or a folder, in which every question (network, images,
            threat, seed and precision) has its own. Attacks that an earlier record of the same question holds stay in it;
            a file that holds something else is not overwritten. Until it is written a checkpoint lies beside it, from
            which the same call goes on if it was stopped; functions are called again from their first image. A function
            is the same where its code and all values that it reads are; if these are more than numbers, texts, tensors
            and lists of them, such as a generator, there is no checkpoint, and the evaluation starts again. What a
            function imports is not compared.
        examples: a .safetensors file for the adversarial images, see `save_examples`.
        source: where the model is from, for the record.
        progress: is told how far each attack is.
        note: is told in a sentence what is worth knowing before the end.

    Raises:
        BadInput: a model and images that do not belong together, an error that the doctor finds, attacks that cannot be,
            files that cannot be written, and arguments of other types; all before the work begins.
    """
    check_model(model)
    check_threat(threat)
    check_precision(precision)
    check_device(device)
    check_batch_size(batch_size)
    check_seed(seed)
    for name, value, kind in (
        *(("doctor", doctor, bool), ("keep", keep, bool), ("source", source, ModelSource | None)),
        *(("progress", progress, Callable), ("note", note, Callable)),
    ):
        check_kind(name, value, kind)
    chosen = with_names(attacks)
    source = source or ModelSource(name_of(model))
    record_path, examples_file = check_files(output, examples, source.weights)
    names = said_by(model, "class_names") or ()
    loaded = load_data(data, needs_train=False, classes=names) if isinstance(data, Data) else data
    data = loaded if isinstance(loaded, Splits) else images_of(loaded)
    images = data.test if isinstance(data, Splits) else data
    weights = fingerprint(model)
    with untouched(model):
        findings = _examined(model, data, images, threat, device, seed, doctor=doctor)
        size = batch_size if batch_size is not None else auto_batch_size(model, images, device)
        keep = keep or examples_file is not None
        evaluator = Evaluator(model, images, threat, size, device, seed, precision, keep)
        asked = question(source, data, evaluator, weights)
        if examples_file and not may_hold_examples(examples_file, asked["question"]):
            raise BadInput(
                f"{examples_file} holds adversarial images of another network, of other images or another threat: name "
                "another file."
            )
        record_file = file_of(record_path, asked) if record_path else None
        checkpoint = evaluator.checkpoint(record_file, chosen) if record_file else None
        _announce(note, evaluator, record_file, checkpoint)
        outcomes = evaluator.run(chosen, progress, checkpoint)
    content = record(asked, evaluator, outcomes)
    if record_file:
        content = merged(content, record_file)
    findings += [*_outside(outcomes), *_refuted(outcomes), *suspicions(figures(content), len(images), threat.norm)]
    said = [asdict(finding) for finding in findings]
    content["findings"] = [*said, *(finding for finding in content["findings"] if finding not in said)]
    evaluation = Evaluation(
        outcomes.outcomes, outcomes.form, record=content, findings=tuple(findings), file=record_file
    )
    if examples_file and ranks.index() == 0:
        save_examples(evaluation, evaluator, asked["question"], examples_file)
    if record_file and ranks.index() == 0:
        write_record(content, record_file)
    if checkpoint:
        checkpoint.remove()
    return evaluation


def check_files(
    output: str | Path | None, examples: str | Path | None, weights: str | Path = ""
) -> tuple[Path | None, Path | None]:
    """Return the record's file or folder and the images' file as paths.

    Raises BadInput where one cannot be written, is the other one, or is the network's own file of weights, and where
    adversarial images are to be written to another file than .safetensors, or over one with anything else.
    """
    record_file, examples_file = (
        None if path is None else path_of(name, path) for name, path in (("output", output), ("examples", examples))
    )
    if record_file and record_file.suffix.lower() not in ("", ".json", ".evaluations") and not record_file.is_dir():
        raise BadInput(
            f"{record_file} is neither a .json file nor a folder that exists: name the record so, or make the folder."
        )
    taken = [Path(weights).resolve()] if weights else []
    for file in (record_file, examples_file):
        if file is None:
            continue
        check_writable(file if file is examples_file or file.suffix.lower() == ".json" else file / "record.json")
        if file.resolve() in taken:
            raise BadInput(f"{file} would be overwritten: give record, adversarial images and weights a file each.")
        taken.append(file.resolve())
    if examples_file and examples_file.suffix != ".safetensors":
        raise BadInput(f"Adversarial images are written as .safetensors: name the file so, not {examples_file}.")
    if examples_file and not may_hold_examples(examples_file):
        raise BadInput(f"{examples_file} holds no adversarial images and would be overwritten: name another file.")
    return record_file, examples_file


def _examined(
    model: nn.Module,
    data: Splits | Images,
    images: Images,
    threat: Threat,
    device: torch.device | str,
    seed: int,
    *,
    doctor: bool,
) -> list[Finding]:
    """Return what the doctor says before the work begins; BadInput where it would be in vain."""
    classes, name = (data.classes, data.name) if isinstance(data, Splits) else (None, "the data")
    check_fit(model, images, None if classes is None else len(classes), name, device)
    if not doctor:
        return []
    try:
        findings = diagnose(model, images, threat, classes=classes, device=device, seed=seed)
    except BadInput as refusal:  # such as images of a single class
        raise BadInput(f"{refusal} {_REGARDLESS}") from refusal
    for finding in findings:
        if finding.severity == "error":
            raise BadInput(f"{finding.seen} {finding.advice} {_REGARDLESS}")
    return findings


def _announce(
    note: Callable[[str], None], evaluator: Evaluator, record_file: Path | None, checkpoint: Checkpoint | None
) -> None:
    if evaluator.precision == "search16" and not pays_16_bits(evaluator.device):
        note("This processor has no instructions for bf16: precision exact would be faster.")
    if record_file and not checkpoint:
        note(
            "If this evaluation is stopped it starts again: a function in it reads values that have no lasting identity."
        )
    if checkpoint and checkpoint.path.exists():
        note("Going on with the evaluation that was stopped.")


def _outside(outcomes: Outcomes) -> Iterator[Finding]:
    """Yield what functions returned that was no answer to the threat."""
    for outcome in outcomes.outcomes:
        if outcome.settings.get("outside"):
            yield Finding(
                "outside-threat",
                "warning",
                f"{outcome.attack} returned {outcome.settings['outside']} images outside the ball or the box.",
                "They do not count, so the accuracy under it may be higher than what it could find.",
                "Let it end with x + threat.project(delta), clamped to [0, 1].",
            )


def _refuted(outcomes: Outcomes) -> Iterator[Finding]:
    """Yield which failures of attacks were successes when they were tried again on the network itself."""
    for outcome in outcomes.outcomes:
        retried = sum(stage.retried for stage in outcome.stages)
        refuted = retried - sum(stage.confirmed for stage in outcome.stages)
        if refuted:
            yield Finding(
                "refuted-failures",
                "warning",
                f"Of {retried} images that {outcome.attack} did not fool, {refuted} were fooled when it was tried again on "
                f"the network itself; the search ran on another form of it ({outcomes.form}).",
                "Rounding may decide a single image; more mean a random network, or 16 bits that hide what there is.",
                "Use precision exact, and aa-rand for networks that draw; with neither of them, report this as a bug.",
            )
