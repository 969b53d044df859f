"""Sweeps: variants of a configuration, each trained with several seeds, in one folder that can be resumed."""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trm_fast.errors import UserError, shown
from trm_fast.inference import Evaluation, Solver, evaluate
from trm_fast.run_folder import CONFIG
from trm_fast.tasks import trusting_code
from trm_fast.tasks.base import Examples
from trm_fast.tasks.files import write_text
from trm_fast.tasks.statistics import mean_interval
from trm_fast.texts import json_text, parse_json, read_text
from trm_fast.training import checkpoint
from trm_fast.training.callbacks import Callback
from trm_fast.training.config import RunConfig
from trm_fast.training.folder import Record
from trm_fast.training.lock import RunLock
from trm_fast.training.read_config import apply_settings, make_config, parse_value
from trm_fast.training.search import Space, suggest
from trm_fast.training.trainer import LossNotFinite, Trainer

SWEEP, PLOT = "sweep.json", "sweep.png"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Variant:
    """A named change of the configuration: values by key, such as ``{"training.batch_size": 16}``."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a sweep trains and evaluates. A resumed sweep must have the same plan.

    Attributes:
        sections: the configuration that the variants change, as read from a preset or a file.
        variants: the variants; empty for a search.
        seeds: each variant is trained with each of them.
        minutes: limit of a run's training time, besides ``training.steps``; None: no limit.
        processor_time: whether training time is processor time per thread, for machines that other programs use too.
        eval_data: a file to evaluate every model on, instead of the test set.
        eval_limit: use only the first rows of ``eval_data``.
        solver: options of ``Solver`` for ``eval_data``.
        space: the values or the range of each key that a search chooses from.
        trials: number of variants that a search tries.
    """

    sections: dict[str, Any]
    seeds: list[int]
    variants: list[Variant] = field(default_factory=list)
    minutes: float | None = None
    processor_time: bool = False
    eval_data: str | None = None
    eval_limit: int | None = None
    solver: dict[str, Any] = field(default_factory=dict)
    space: Space = field(default_factory=dict)
    trials: int = 0

    def config(self, variant: Variant, seed: int) -> RunConfig:
        """The configuration of a run.

        Raises:
            UserError: the variant's settings are not valid.
        """
        changes = [f"{key}={json.dumps(value)}" for key, value in variant.settings.items()]
        sections = apply_settings(self.sections, [*changes, f"training.seed={seed}"])
        with trusting_code():  # the user chose the configuration
            return make_config(sections, f"variant {variant.name}")

    def to_json(self) -> Record:
        """The plan as JSON values."""
        plan: Record = json.loads(json.dumps(asdict(self)))
        return plan


def parse_variant(text: str) -> Variant:
    """Parses a named variant.

    Raises:
        UserError: the text does not have this form.

    Examples:
        >>> parse_variant("large: model.hidden_size=128 training.batch_size=16")
        Variant(name='large', settings={'model.hidden_size': 128, 'training.batch_size': 16})
    """
    name, colon, changes = text.partition(":")
    pairs = [change.partition("=") for change in changes.split()]
    if not name.strip() or not colon or not all(key and equals for key, equals, _ in pairs):
        raise UserError(
            f'--variant takes "NAME: KEY=VALUE KEY=VALUE", such as "large: model.hidden_size=128", not {shown(text)}',
            usage_error=True,
        )
    return Variant(name.strip(), {key: parse_value(value, f"--variant {text}") for key, _, value in pairs})


def grid(variants: Sequence[Variant], values: Mapping[str, Sequence[Any]]) -> list[Variant]:
    """Every variant with every combination of the values of some keys.

    Raises:
        UserError: two variants have the same name.

    Examples:
        >>> [v.name for v in grid([], {"training.learning_rate": [1e-3, 3e-3], "model.hidden_size": [32, 64]})][:2]
        ['learning_rate=0.001 hidden_size=32', 'learning_rate=0.001 hidden_size=64']
    """
    result = []
    for variant, *combination in itertools.product(variants or [Variant("")], *values.values()):
        settings = dict(zip(values, combination, strict=True))
        result.append(Variant(f"{variant.name} {variant_name(settings)}".strip(), variant.settings | settings))
    names = [variant.name for variant in result]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two variants have the name {twice[0]!r}", usage_error=True)
    return result


def variant_name(settings: Mapping[str, Any]) -> str:
    """The name of a variant with these settings: the last parts of the keys, with the values."""
    last = [key.rpartition(".")[2] for key in settings]
    keys = last if len(set(last)) == len(last) else settings
    texts = (value if isinstance(value, str) else json.dumps(value) for value in settings.values())
    return " ".join(map("=".join, zip(keys, texts, strict=True)))


class Sweep:
    """A sweep in its folder: ``sweep.json`` and a run folder for each variant and seed.

    Args:
        out: the folder. A sweep of the same plan is continued: finished runs are kept.
        plan: what to train and evaluate.
        metric: the name of a number in the evaluations. The table compares it, and a search maximizes it.
        device: a torch device, such as ``cpu`` or ``cuda:0``.
        callbacks: creates the callbacks of a run.
        measure: evaluates a solver on ``eval_data``.

    Raises:
        UserError: the folder holds a sweep of another plan or another process uses it, a variant is not valid, or
            ``eval_data`` does not exist.
    """

    def __init__(
        self,
        out: Path,
        plan: Plan,
        *,
        metric: str = "exact_accuracy",
        device: str = "cpu",
        callbacks: Callable[[], Sequence[Callback]] = tuple,
        measure: Callable[[Solver, Examples], Evaluation] = evaluate,
    ) -> None:
        self.out, self.plan, self.metric, self.device = out, plan, metric, device
        self.callbacks, self.measure = callbacks, measure
        self.variants, self.runs = list(plan.variants), list[Record]()
        if plan.eval_data is not None and not plan.eval_data.startswith("hf:") and not Path(plan.eval_data).exists():
            raise UserError(f"--eval-data {plan.eval_data}: there is no such file", usage_error=True)
        for variant in plan.variants:
            plan.config(variant, plan.seeds[0])
        self._lock = RunLock(out) if out.is_dir() else None
        if (out / SWEEP).exists():
            self._read()
        self.total = len(plan.seeds) * (plan.trials or len(plan.variants))

    def _read(self) -> None:
        path = self.out / SWEEP
        content = parse_json(read_text(path), f"{path}: ")
        if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
            raise UserError(f"{path} is not a sweep of format version {FORMAT_VERSION}")
        plan, original = self.plan.to_json(), content["plan"]
        if changed := [key for key in plan if plan[key] != original.get(key)]:
            raise UserError(
                f"{self.out} holds another sweep: {', '.join(changed)} changed. Repeat its own options to continue it, "
                "or choose another --out",
                usage_error=True,
            )
        self.runs = content["runs"]
        self.variants = [Variant(row["variant"], row["settings"]) for row in content["variants"]]

    def pending(self) -> Iterator[tuple[Variant, int]]:
        """Yields the runs that are not finished yet. A search chooses a variant only when its first run is next."""
        for index in itertools.count():
            if index == len(self.variants):
                if index >= self.plan.trials:
                    return
                self._suggest()
            done = {run["seed"] for run in self.finished_runs(self.variants[index])}
            yield from ((self.variants[index], seed) for seed in self.plan.seeds if seed not in done)

    def _suggest(self) -> None:
        rows = self.rows(self.metric)
        settings = suggest(self.plan.space, [(row["settings"], row["mean"]) for row in rows])
        self.variants.append(Variant(f"{len(rows)}: {variant_name(settings)}", settings))

    def finished_runs(self, variant: Variant) -> list[Record]:
        """The records of a variant's finished runs."""
        return [run for run in self.runs if run["variant"] == variant.name]

    def train(self, variant: Variant, seed: int) -> Record | None:
        """Trains and evaluates a pending run, or resumes it if it was interrupted.

        Returns:
            Its record; None if a signal interrupted it.

        Raises:
            UserError: the settings are not valid, there is nothing to evaluate on, or a file can't be written.
        """
        trainer = self._trainer(variant, seed)
        examples = self._eval_examples(trainer)  # read before the training, so that mistakes show at once
        self._solver(trainer)  # the same for its options
        run: Record = {"variant": variant.name, "seed": seed, "diverged": None}
        limit = math.inf if self.plan.minutes is None else 60 * self.plan.minutes
        try:
            summary = trainer.train(training_seconds=limit, clock=processor_time if self.plan.processor_time else None)
        except LossNotFinite as error:
            sample_steps = trainer.step * trainer.config.training.batch_size
            summary = {"steps": trainer.step, "sample_steps": sample_steps, "seconds": round(trainer.seconds, 1)}
            summary |= {"interrupted": False, "evaluation": None}
            run["diverged"] = str(error)
        if summary["interrupted"]:
            return None
        run |= {key: summary[key] for key in ("steps", "sample_steps", "seconds", "evaluation")}
        run["eval_data"] = None
        if examples is not None and not run["diverged"]:
            run["eval_data"] = self.measure(self._solver(trainer), examples).to_json()
        self.runs.append(run)
        self._write("exact_accuracy")  # which every evaluation has: no run is lost to a wrong metric
        return run

    def _trainer(self, variant: Variant, seed: int) -> Trainer:
        config = self.plan.config(variant, seed)
        folder = self.out / "runs" / _folder_name(self.variants.index(variant), variant) / f"seed-{seed}"
        self._lock = self._lock or RunLock(self.out)
        self._write("exact_accuracy")  # from here on the folder belongs to this plan
        callbacks = self.callbacks()
        if (folder / CONFIG).exists() or checkpoint.saved_steps(folder):
            return Trainer.resume(folder, device=self.device, callbacks=callbacks)
        return Trainer(config, folder, device=self.device, callbacks=callbacks)

    def _eval_examples(self, trainer: Trainer) -> Examples | None:
        if self.plan.eval_data is not None:
            examples, _, notes = trainer.task.read_counted(self.plan.eval_data, self.plan.eval_limit)
            for note in notes:
                trainer.callbacks.on_note(note)
            return examples.take(slice(self.plan.eval_limit))
        if not len(trainer.dataset.test):
            raise UserError("the data has no test set: give --eval-data FILE")
        return None

    def _solver(self, trainer: Trainer) -> Solver:
        return Solver(trainer.averaged_model(), trainer.task, **self.plan.solver)

    def rows(self, metric: str) -> list[Record]:
        """The results by variant: number of runs, mean, standard deviation and 95 % interval of the metric, and means
        of steps, sample-steps and seconds.

        Raises:
            UserError: the evaluations do not have the metric.
        """
        return [_row(variant, self.finished_runs(variant), metric) for variant in self.variants]

    def save(self) -> Record:
        """Writes ``sweep.json``.

        Returns:
            Its contents.

        Raises:
            UserError: the evaluations do not have the metric, or the file can't be written.
        """
        return self._write(self.metric)

    def _write(self, metric: str) -> Record:
        content: Record = {
            "format_version": FORMAT_VERSION,
            "metric": metric,
            "variants": self.rows(metric),
            "runs": self.runs,
            "plan": self.plan.to_json(),
        }
        write_text(self.out / SWEEP, json_text(content, indent=1) + "\n")
        return content


def processor_time() -> float:
    """Processor time of this process per thread, in seconds. Unlike wall-clock time, it does not advance while other
    programs use the processor. Work on a single thread counts less."""
    return time.process_time() / torch.get_num_threads()


def read_metric(run: Mapping[str, Any], metric: str) -> float:
    """The metric in the run's evaluation: on ``eval_data`` if there is one, or on the test set.

    Raises:
        UserError: the evaluation does not have the metric.
    """
    evaluation = run["eval_data"] or run["evaluation"]
    value = math.nan if metric in evaluation and evaluation[metric] is None else evaluation.get(metric)
    if isinstance(value, bool) or not isinstance(value, int | float):
        names = [name for name, value in evaluation.items() if isinstance(value, int | float)]
        raise UserError(f"--metric {metric}: choose from {', '.join(names)}", usage_error=True)
    return float(value)


def _row(variant: Variant, runs: Sequence[Record], metric: str) -> Record:
    finished = [run for run in runs if not run["diverged"]]
    values = [read_metric(run, metric) for run in finished]
    return {
        "variant": variant.name,
        "settings": variant.settings,
        "n": len(values),
        "diverged": len(runs) - len(values),
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "interval": mean_interval(values) if len(values) > 1 else _interval_of_one(finished, metric),
        **{
            key: statistics.fmean(run[key] for run in finished) if finished else None
            for key in ("steps", "sample_steps", "seconds")
        },
    }


def _interval_of_one(runs: Sequence[Record], metric: str) -> list[float] | None:
    """The interval in the evaluation of a single run: Wilson's for shares, a bootstrap interval for F1 scores."""
    if not runs:
        return None
    evaluation = runs[0]["eval_data"] or runs[0]["evaluation"]
    if metric == "exact_accuracy":
        return list(evaluation["interval"])
    bounds = [evaluation.get(f"{metric}_{end}") for end in ("low", "high")]
    return None if None in bounds else bounds


def _folder_name(index: int, variant: Variant) -> str:
    return f"{index}-" + re.sub(r"[^\w.=+-]+", "_", variant.name)[:80]
