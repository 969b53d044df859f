"""Compares recipes: each row of ``recipes.yaml`` changes some keys of a preset. All rows train for the same time.

    python bench/recipes.py --data TRAIN.csv --eval-data TEST.csv       trains what is missing, and prints the table
    python bench/recipes.py ... --only preset,adamw --seeds 0           some rows, some seeds
    python bench/recipes.py --table                                     only the table

All learning-rate schedules end with the budget. For this, a trial measures how many optimizer steps of the unchanged
preset fit into ``--minutes``, and for each row another trial, at each of its depths of recursion, measures the time of
its steps relative to those of the preset, in turns. Time is processor time per thread, because other programs may use
the machine.

Each model is measured at first try (one run from the fixed initial state, without noise) on the first ``--limit``
puzzles, with each of ``--max-steps``. ``results/recipes/ROW.json`` holds the runs with mean, standard deviation and the
95 % interval of the mean (Student's t). Ctrl-C ends the program at a checkpoint; the same command continues.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trm_fast.inference import Solver, evaluate
from trm_fast.interchange import locate
from trm_fast.models import TRMModel
from trm_fast.tasks.files import write_text
from trm_fast.tasks.statistics import mean_interval
from trm_fast.texts import json_text
from trm_fast.training import TrainStep, apply_settings, make_config, read_preset
from trm_fast.training.config import RunConfig
from trm_fast.training.feed import Feed
from trm_fast.training.read_config import read_yaml
from trm_fast.training.sweep import Plan, Sweep, Variant, processor_time

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results" / "recipes"
FIRST_TRY: dict[str, Any] = {"rollouts": 1, "symmetries": 1, "noise": 0.0}
TURN = 1.0  # seconds after which a trial measures the other step
INTERRUPTED = "interrupted; repeat the command to continue"
SHARE = re.compile(r"(\d+(?:\.\d+)?) % of (steps|examples)")

Row = dict[str, Any]
"""A result file: the definition of a row, its number of steps, and its runs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=FOLDER / "recipes.yaml", help="the changes of each row")
    parser.add_argument("--preset", default="sudoku-extreme")
    parser.add_argument("--data", help="training puzzles; by default those of the preset")
    parser.add_argument("--eval-data", help="test puzzles")
    parser.add_argument("--limit", type=int, default=400, help="number of test puzzles")
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of each run")
    parser.add_argument("--trial-seconds", type=float, default=30.0, help="length of the trial at each depth")
    parser.add_argument("--max-steps", type=int, nargs="+", default=[16, 64], help="steps of the first try")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", help="names of rows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if not options.table:
        if not options.eval_data:
            parser.error("--eval-data is missing")
        rows = read_rows(options.rows)
        names = options.only.split(",") if options.only else list(rows)
        if unknown := [name for name in names if name not in rows]:
            parser.error(f"--only {','.join(unknown)}: the rows are {', '.join(rows)}")
        torch.set_num_threads(options.threads)
        try:
            complete = all(run_row(name, rows[name], options) for name in names)
        except KeyboardInterrupt:  # in a trial or an evaluation
            complete = False
        if not complete:
            raise SystemExit(INTERRUPTED)
    print(table(options.results))


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The settings of each row by name, after a check of their form."""
    rows = read_yaml(path)
    for name, settings in rows.items():
        if not re.fullmatch(r"[\w.-]+", name) or name == "budget" or not isinstance(settings, dict):
            raise SystemExit(f"{path}: {name}: a row is a name of letters, digits, - and . with keys and values")
    return rows


def run_row(name: str, settings: dict[str, Any], options: argparse.Namespace) -> bool:
    """Trains and measures what is missing of a row. Returns False if a signal interrupted it."""
    sections = read_preset(options.preset)
    common = {"preset": options.preset, "sections": sections, "data": file_name(options.data)}
    common |= {"minutes": options.minutes, "threads": options.threads}
    definition = {**common, "row": name, "settings": settings, "eval_data": file_name(options.eval_data)}
    definition |= {"limit": options.limit, "max_steps": options.max_steps}
    if options.data:
        sections = apply_settings(sections, [f"data.source={json.dumps(options.data)}"])
    path = options.results / f"{name}.json"
    row: Row = json.loads(path.read_text()) if path.exists() else {}
    if not row:
        reference = reference_steps(sections, common, options)
        print(f"{name}: measuring the time of a step", flush=True)
        steps, ratios = count_steps(sections, settings, reference, options.trial_seconds)
        row = {**definition, "processor": processor(), "steps": steps, "relative_times": ratios, "runs": []}
        save(path, row)
    check(path, row, definition)
    variant = Variant(
        name, {**resolve(settings, config_of(sections, settings), row["steps"]), "training.steps": row["steps"]}
    )
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for seed in seeds:
        if any(run["seed"] == seed for run in row["runs"]):
            continue
        print(f"{name}: seed {seed}, {row['steps']:,} steps", flush=True)
        plan = Plan(
            sections=sections, seeds=[seed], variants=[variant], processor_time=True, eval_data=options.eval_data,
            eval_limit=options.limit, solver={**FIRST_TRY, "max_steps": options.max_steps[0]},
        )  # fmt: skip
        sweep = Sweep(options.runs / name / f"seed-{seed}", plan)
        for pending, number in sweep.pending():
            if sweep.train(pending, number) is None:
                return False
        row["runs"].append(measured(sweep, options))
        save(path, row)
    return True


def check(path: Path, content: Row, definition: Row) -> None:
    """Ends the program if a file has results of another definition."""
    if changed := [key for key, value in definition.items() if content.get(key) != json.loads(json.dumps(value))]:
        raise SystemExit(f"{path} has other results ({', '.join(changed)} changed): move it, or choose --results")


def measured(sweep: Sweep, options: argparse.Namespace) -> Row:
    """The record of a sweep's only run: training, and the accuracies of its model."""
    record = sweep.runs[0]
    run: Row = {key: record[key] for key in ("seed", "steps", "sample_steps", "seconds", "diverged")}
    if record["diverged"]:
        return run
    (folder,) = (sweep.out / "runs").glob("*/*")
    model = locate(str(folder))
    examples = model.task.read(options.eval_data, options.limit).take(slice(options.limit))
    run["first_try"] = {str(options.max_steps[0]): record["eval_data"]["exact_accuracy"]}
    for steps in options.max_steps[1:]:
        solver = Solver(model.model, model.task, **FIRST_TRY, max_steps=steps)
        run["first_try"][str(steps)] = evaluate(solver, examples).exact_accuracy
    if any(key.startswith("solver.") for key in sweep.variants[0].settings):
        run["tries"] = evaluate(Solver(model.model, model.task), examples).exact_accuracy
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if '"loss"' in line][-1]
    return run | {"loss": last["loss"], "training_accuracy": last["exact_accuracy"]}


def file_name(source: str | None) -> str | None:
    """The last part of a file's path, which is what results name it by."""
    return source if source is None or source.startswith("hf:") else Path(source).name


def reference_steps(sections: dict[str, Any], definition: Row, options: argparse.Namespace) -> int:
    """The number of optimizer steps of the unchanged preset within the budget, which is measured once."""
    path = options.results / "budget.json"
    budget: Row = json.loads(path.read_text()) if path.exists() else {}
    if not budget:
        print("measuring the time of a step", flush=True)
        (seconds,) = step_times([make_step(make_config(sections, options.preset))], options.trial_seconds)
        budget = {**definition, "processor": processor(), "steps": max(1, round(60 * options.minutes / seconds))}
        save(path, budget)
    check(path, budget, definition)
    return int(budget["steps"])


def count_steps(
    sections: dict[str, Any], settings: dict[str, Any], reference: int, trial_seconds: float
) -> tuple[int, list[float]]:
    """The number of optimizer steps that take as long as ``reference`` steps of the unchanged preset, and the time of a
    step relative to the preset's in each stage of the depth curriculum."""
    if not settings:
        return reference, [1.0]
    nominal = 1000  # the stages have the same shares of any number of steps
    config = config_of(sections, resolve(settings, config_of(sections, settings), nominal))
    ends = [*(stage.until for stage in config.training.depth), nominal]
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    steps = [make_step(make_config(sections, "the preset")), make_step(config)]
    ratios = []
    for end in ends:
        steps[1].set_depth(config.depth_at(end))
        plain, changed = step_times(steps, trial_seconds)
        ratios.append(changed / plain)
    ratio = sum(count * value for count, value in zip(counts, ratios, strict=True)) / nominal
    return max(1, round(reference / ratio)), ratios


def make_step(config: RunConfig) -> TrainStep:
    """A training step on the CPU, without a run."""
    task, training = config.make_task(), config.training
    feed = Feed(task, task.dataset(config.data, training.seed).train, training.seed, training.batch_size)
    model = TRMModel(config.model)
    return TrainStep(model, training.make_optimizer(model), training, feed)


def step_times(steps: list[TrainStep], seconds: float) -> list[float]:
    """The processor time of each training step per thread, measured in turns for ``seconds`` each."""
    spent, counts = [0.0] * len(steps), [0] * len(steps)
    while min(spent) < seconds:
        for i, step in enumerate(steps):
            minimum = np.zeros(step.config.batch_size, dtype=np.int32)
            step.run(step.config.learning_rate, minimum)  # the first one after a turn of another is slower
            start = processor_time()
            while (turn := processor_time() - start) < min(TURN, seconds):
                step.run(step.config.learning_rate, minimum)
                counts[i] += 1
            spent[i] += turn
    return [total / count for total, count in zip(spent, counts, strict=True)]


def config_of(sections: dict[str, Any], settings: dict[str, Any]) -> RunConfig:
    """The configuration with settings, without those that have shares."""
    plain = {key: value for key, value in settings.items() if not SHARE.search(json.dumps(value))}
    return make_config(apply_settings(sections, [f"{k}={json.dumps(v)}" for k, v in plain.items()]), "the row")


def resolve(settings: Any, config: RunConfig, steps: int) -> Any:
    """The settings with numbers in place of shares."""
    if isinstance(settings, dict):
        return {key: resolve(value, config, steps) for key, value in settings.items()}
    if isinstance(settings, list):
        return [resolve(value, config, steps) for value in settings]
    if not isinstance(settings, str) or not (match := SHARE.fullmatch(settings)):
        return settings
    examples = config.training.batch_size / config.model.max_supervision_steps
    return max(1, round(float(match[1]) / 100 * steps * (1 if match[2] == "steps" else examples)))


def processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", path.read_text()) if path.exists() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} CPUs"


def save(path: Path, row: Row) -> None:
    """Writes a result, with the summary of its runs."""
    if "runs" in row:
        finished = [run for run in row["runs"] if not run["diverged"]]
        measures = {f"first_try_{n}": [run["first_try"][str(n)] for run in finished] for n in row["max_steps"]}
        measures["tries"] = [run["tries"] for run in finished if "tries" in run]
        row["summary"] = {name: summary(values) for name, values in measures.items() if values}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json_text(row, indent=1) + "\n")


def summary(values: list[float]) -> Row:
    """The number of runs, their mean, standard deviation, and the 95 % interval of the mean."""
    several = len(values) > 1
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if several else None,
        "interval": mean_interval(values) if several else None,
    }


def table(results: Path = RESULTS) -> str:
    """The table of all results in Markdown, the best first by the last number of steps."""
    rows = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    rows = [row for row in rows if row.get("runs")]  # budget.json has none
    if not rows:
        return f"{results} has no results"
    measures = list(dict.fromkeys(name for row in rows for name in row["summary"]))
    measures.sort(key=lambda name: name == "tries")
    key = [name for name in measures if name != "tries"][-1:]

    def rank(row: Row) -> float:
        return -max((row["summary"][name]["mean"] for name in key if name in row["summary"]), default=0.0)

    names = [f"{name.removeprefix('first_try_')} steps" if name != "tries" else name for name in measures]
    lines = [" | ".join(("| row | runs | steps | seconds", *names, "training accuracy |"))]
    lines.append("|" + " --- |" * (len(names) + 5))
    for row in sorted(rows, key=rank):
        finished = [run for run in row["runs"] if not run["diverged"]]
        diverged = len(row["runs"]) - len(finished)
        cells = [row["row"], f"{len(finished)}" + (f" + {diverged} diverged" if diverged else ""), f"{row['steps']:,}"]
        cells.append(f"{mean(run['seconds'] for run in finished):,.0f}" if finished else "-")
        cells += [percentages(row["summary"].get(name)) for name in measures]
        training = [run["training_accuracy"] for run in finished if run["training_accuracy"] is not None]
        cells.append(f"{mean(training):.1%}" if training else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def percentages(figures: Row | None) -> str:
    """A mean with its standard deviation and interval, as percentages."""
    if figures is None:
        return "-"
    text = f"{figures['mean']:.1%}"
    if figures["sd"] is not None:
        start, end = (100 * min(1.0, max(0.0, bound)) for bound in figures["interval"])
        text += f" (sd {100 * figures['sd']:.1f}; {start:.1f} to {end:.1f})"
    return text


def mean(values: Iterable[float]) -> float:
    """The mean."""
    return statistics.fmean(values)


if __name__ == "__main__":
    main()
