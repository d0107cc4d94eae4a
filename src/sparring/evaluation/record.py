"""The record of an evaluation: every figure with what is needed to obtain it again, as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sparring import ranks
from sparring.data import Images, Splits, batches
from sparring.data.splits import images_fingerprint
from sparring.environment import environment
from sparring.evaluation.evaluator import Evaluator
from sparring.evaluation.outcome import Outcome, Outcomes, Stage
from sparring.evaluation.records import CHECKSUM, checksum
from sparring.files import replacing
from sparring.models import Normalised


@dataclass(frozen=True)
class ModelSource:
    """Where a network is from: what a record says of it beside the fingerprint of its weights.

    Args:
        model: the name of the network, such as that of its class or of its architecture.
        weights: the file or the run's folder that the weights are from, as it was given; empty where there is none.
        checkpoint: best or last, which of a run's weights they are; empty for a file.
    """

    model: str
    weights: str = ""
    checkpoint: str = ""


def name_of(model: nn.Module) -> str:
    """Return the name of the network's class, without the normalisation around it."""
    return type(model.network if isinstance(model, Normalised) else model).__name__


def question(source: ModelSource, data: Splits | Images, evaluator: Evaluator, weights: str) -> dict[str, Any]:
    """Return what an evaluation asks of which network, as plain values; `question` are 8 digits that stand for it.

    `weights` is the network's `fingerprint` before anything called it, as a pass may change it.
    """
    asked: dict[str, Any] = {
        "subject": asdict(source) | {"fingerprint": weights[:16]},
        "data": _data(data),
        "threat": {"norm": evaluator.threat.norm, "eps": str(evaluator.threat.eps)},
        "n": len(evaluator.images),
        "seed": evaluator.seed,
        "precision": evaluator.precision,
    }
    parts = [asked["subject"]["fingerprint"], evaluator.answers(), images_fingerprint(evaluator.images)]
    parts += [asked[name] for name in ("threat", "seed", "precision")]
    return asked | {"question": hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}


def record(asked: dict[str, Any], evaluator: Evaluator, outcomes: Outcomes) -> dict[str, Any]:
    """Return the answers to a `question` with it, as plain values; without findings.

    Accuracies are fractions, eps and alpha are written as given. `correct` of an attack are the images that it left correct,
    as a hexadecimal number whose highest bit of n is the first image.
    """
    parameter = next(evaluator.model.parameters(), torch.empty(0))
    return asked | {
        "searched": outcomes.form,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "batch_size": evaluator.batch_size,
        "processes": ranks.count(),
        "device": str(evaluator.device),
        "environment": environment(),
        "attacks": [_attack(outcome) for outcome in outcomes.outcomes],
        "worst": outcomes.worst,
        "findings": [],
    }


def _data(data: Splits | Images) -> dict[str, str | None]:
    """Return the split's name; images by themselves have none."""
    if isinstance(data, Splits):
        fingerprints = {"fingerprint": data.fingerprint, "train_fingerprint": data.train_fingerprint}
        return {"name": data.name, "split": "test", **fingerprints}
    return {"name": None, "split": None, "fingerprint": images_fingerprint(data)}


def _attack(outcome: Outcome) -> dict[str, Any]:
    content: dict[str, Any] = {
        "attack": outcome.attack,
        "accuracy": outcome.accuracy,
        "n": len(outcome.correct),
        **outcome.settings,
        "seconds": round(outcome.seconds, 3),
    }
    content["correct"] = f"{int(''.join(map(str, outcome.correct.int().tolist())), 2):x}"
    if retried := sum(stage.retried for stage in outcome.stages):
        content["failures"] = {"retried": retried, "confirmed": sum(stage.confirmed for stage in outcome.stages)}
    if len(outcome.stages) > 1:
        content["stages"] = [_stage(stage) for stage in outcome.stages]
    elif outcome.stages:
        content |= {"forwards": outcome.stages[0].forwards, "backwards": outcome.stages[0].backwards}
    return content


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "attack": stage.name,
        "accuracy": stage.accuracy,
        **stage.settings,
        "forwards": stage.forwards,
        "backwards": stage.backwards,
        "seconds": round(stage.seconds, 3),
    }


def write_record(content: dict[str, Any], path: Path) -> None:
    """Replace the file by the record, with a checksum, by which `records` knows one that was changed."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content | {CHECKSUM: checksum(content)}, indent=2) + "\n", encoding="utf-8")


_QUESTION = "question"  # the key in a file of examples


def save_examples(evaluation: Outcomes, evaluator: Evaluator, question: str, path: Path) -> None:
    """Replace the file by the images as they were and under every attack, as float32 in [0, 1], with what the network says.

    It says of which `question` they are.

    Tensors are named clean, labels, index and predicted.clean, and for each attack images.ATTACK (N, C, H, W), which holds
    the last image that was tried where the attack failed, correct.ATTACK (N,) and predicted.ATTACK (N,).
    """
    images = evaluator.images
    clean = torch.cat([batch.x for batch in batches(images, evaluator.batch_size, "cpu")])
    tensors = {
        "clean": clean,
        "labels": images.labels,
        "index": images.index,
        "predicted.clean": evaluator.predictions(clean),
    }
    for outcome in evaluation.outcomes:
        if outcome.images is not None:
            tensors |= {
                f"images.{outcome.attack}": outcome.images,
                f"correct.{outcome.attack}": outcome.correct,
                f"predicted.{outcome.attack}": evaluator.predictions(outcome.images),
            }
    with replacing(path) as temporary:
        named = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, temporary, metadata={_QUESTION: question})


def may_hold_examples(path: Path, question: str | None = None) -> bool:
    """Return whether a file is absent, or one of images as `save_examples` writes it; of that question, if one is given."""
    if not path.exists():
        return True
    try:
        with safe_open(path, framework="pt") as file:
            asked = (file.metadata() or {}).get(_QUESTION)
            return {"labels", "index"} <= set(file.keys()) and (question is None or asked in (None, question))
    except (OSError, SafetensorError):
        return False
