"""A run's configuration: task, data, model and training in one YAML file, typed and validated key by key."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    Strict,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from trm_fast.errors import UserError
from trm_fast.models import TRMConfig, TRMModel
from trm_fast.models.halting import RULES
from trm_fast.nn.layers import Embedding
from trm_fast.tasks import Task, get_task
from trm_fast.tasks.base import DataConfig, TaskConfig

# YAML 1.1 reads a bare off as false.
Switch = Annotated[Literal["auto", "off"], BeforeValidator(lambda value: "off" if value is False else value)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Stage(BaseModel):
    """A stage of the depth curriculum: ``until`` a step (the last of the stage) recursion is no deeper than this."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    until: int = Field(ge=1)
    T_cycles: int | None = Field(None, ge=1)
    n_latent_steps: int | None = Field(None, ge=0)
    max_supervision_steps: int | None = Field(None, ge=1)

    def depth(self) -> dict[str, int]:
        """What it changes of the model."""
        return self.model_dump(exclude={"until"}, exclude_none=True)


def _stages(value: Any) -> Any:
    """The entries of ``training.depth`` as stages; a ValueError says which of them is wrong."""
    if not isinstance(value, list | tuple):
        raise ValueError("it is a list of stages, such as [{until: 2000, T_cycles: 1}]")
    made = []
    for number, entry in enumerate(value, 1):
        try:
            made.append(entry if isinstance(entry, Stage) else Stage.model_validate(entry))
        except ValidationError as error:
            raise ValueError(f"stage {number}: {_explain(error.errors()[0], Stage, '')}") from None
        if not made[-1].depth():
            raise ValueError(f"stage {number} changes nothing: it has {', '.join(list(Stage.model_fields)[1:])}")
        if number > 1 and made[-1].until <= made[-2].until:
            raise ValueError(f"stage {number} ends at step {made[-1].until}, not behind step {made[-2].until}")
    return tuple(made)


class TrainingConfig(BaseModel):
    """The ``training:`` section. Defaults are the published recipe for sudoku (arXiv 2510.04871, section 5)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    steps: int = Field(65_104, ge=1, description="optimizer steps of the whole run")
    supervision: Literal["carry", "unrolled"] = Field(
        "carry",
        description="carry: an optimizer step after each supervision step, as published; unrolled: all supervision "
        "steps of fresh examples, their mean loss, one optimizer step",
    )
    arguments: Literal["every", "last"] = Field(
        "every", description="supervision steps that learn the arguments of calls; last needs supervision: unrolled"
    )
    batch_size: int = Field(768, ge=1)
    gradient_accumulation: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="parts a batch is computed in; auto takes as few as memory allows"
    )
    optimizer: Literal["adam_atan2", "adamw"] = "adam_atan2"
    learning_rate: float = Field(1e-4, gt=0)
    embedding_learning_rate: float | None = Field(
        None, gt=0, description="of tables of embeddings, on the same schedule; null for learning_rate"
    )
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = (0.9, 0.95)
    weight_decay: float = Field(1.0, ge=0)
    hold_steps: int = Field(0, ge=0, description="first steps at rate 0, which fill the moments and the carry")
    warmup_steps: int = Field(2000, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    schedule_steps: int | None = Field(None, ge=1, description="step at which the cosine ends; null for the last")
    final_learning_rate: float = Field(0.1, ge=0, le=1, description="cosine: the last rate, as a share of the first")
    depth: Annotated[tuple[Stage, ...], BeforeValidator(_stages)] = Field(
        (), description="curriculum: stages of shallower recursion, each until a step; then the model's own depth"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm; null for no clipping, as published")
    puzzle_learning_rate: float = Field(1e-4, gt=0)
    puzzle_weight_decay: float = Field(1.0, ge=0)
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="average that evaluation uses; 0 for the weights themselves"
    )
    exploration: float = Field(0.1, ge=0, le=1, description="share of steps that draw a random minimum of steps")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of activations; auto is bfloat16 on a GPU, as published, and float32 on a CPU"
    )
    no_grad_dtype: Literal["same", "fp8", "fp8-emulated"] = Field(
        "same", description="of products in cycles without gradient; emulated rounds alike on any device, and is slow"
    )
    graph: Switch = Field("auto", description="auto runs the step as one CUDA graph on a GPU; off calls it")
    recompute: Literal["none", "latent"] = Field(
        "none", description="latent keeps each latent step's input alone and computes the rest again in the backward"
    )
    seed: int = Field(0, ge=0, lt=2**64)
    log_every: int = Field(10, ge=1)
    eval_every: int = Field(0, ge=0, description="steps between evaluations; 0 for one at the end")
    eval_count: int = Field(1000, ge=1, description="test examples an evaluation takes at most")
    checkpoint_every: int = Field(1000, ge=1)
    keep_checkpoints: int = Field(3, ge=1, description="newest checkpoints kept, besides the best")

    def rates(self, model: TRMModel) -> list[float]:
        """Of each parameter of a model, as a multiple of the learning rate."""
        tables = {id(module.weight) for module in model.embedding.modules() if isinstance(module, Embedding)}
        apart = (self.embedding_learning_rate or self.learning_rate) / self.learning_rate
        return [apart if id(p) in tables else 1.0 for p in model.parameters()]

    def learning_rate_at(self, step: int) -> float:
        """The rate of step 1, 2, ...: 0, linear warm-up, then constant or a cosine to ``final_learning_rate``."""
        warm = self.hold_steps + self.warmup_steps
        if step < warm or step <= self.hold_steps:
            return self.learning_rate * max(0, step - self.hold_steps) / max(1, self.warmup_steps)
        if self.schedule == "constant":
            return self.learning_rate
        last = self.schedule_steps or self.steps
        progress = min(1.0, (step - warm) / max(1, last - warm))
        low = self.final_learning_rate
        return self.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


class RunConfig(BaseModel):
    """All of a run. ``task`` is the task's own section; ``model`` takes its vocabulary and length from the task."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    task: SerializeAsAny[TaskConfig]
    data: DataConfig = DataConfig()
    model: TRMConfig
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.training.arguments == "last" and (
            self.training.supervision != "unrolled" or self.model.outputs not in ("slots", "selection")
        ):
            raise ValueError("training.arguments: last needs supervision: unrolled and a model that chooses tools")
        if self.training.arguments == "last" and RULES[self.model.halting].whole_batch:
            raise ValueError("training.arguments: last needs model.halting: row; a batch that stops early has no last")
        if self.training.recompute != "none" and self.model.dropout:
            raise ValueError("training.recompute needs model.dropout: 0, or it would compute with other random numbers")
        for stage in self.training.depth:
            for name, value in stage.depth().items():
                if value > (own := getattr(self.model, name)):
                    raise ValueError(f"training.depth: {name} {value} is deeper than the model's own, {own}")
            try:
                self._with(stage.depth())
            except ValidationError as error:
                text = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"training.depth: until step {stage.until}: {text}") from None
        return self

    def _with(self, depth: Mapping[str, int]) -> TRMConfig:
        return TRMConfig.model_validate(self.model.model_dump() | {**depth}) if depth else self.model

    def model_at(self, step: int) -> TRMConfig:
        """The model that step 1, 2, ... trains: the whole one but for the depth of its stage."""
        stage = next((stage for stage in self.training.depth if step <= stage.until), None)
        return self._with(stage.depth() if stage else {})

    def flop(self) -> int:
        """Matrix FLOP of the whole run's training steps, for each row of the batch."""
        total, before = 0, 0
        for until in (*(stage.until for stage in self.training.depth), self.training.steps):
            count = max(0, min(until, self.training.steps) - before)
            total += count * self.step_flop(self.model_at(before + 1))
            before += count
        return total

    def step_flop(self, model: TRMConfig) -> int:
        """Matrix FLOP of one step of the optimizer on such a model, for each row of the batch."""
        supervised = model.max_supervision_steps if self.training.supervision == "unrolled" else 1
        return supervised * model.gemm_flop(training=True)

    def compute_dtype(self, device: torch.device) -> torch.dtype:
        """Of activations on ``device``."""
        asked = self.training.dtype
        low = asked == "bfloat16" or (asked == "auto" and device.type == "cuda")
        return torch.bfloat16 if low else torch.float32

    def make_task(self) -> Task:
        return get_task(self.task.name)(self.task)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def preset_names() -> list[str]:
    return sorted(Path(f.name).stem for f in files("trm_fast.configs").iterdir() if f.name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The sections of a preset, not validated yet."""
    if name not in preset_names():
        raise UserError(f"there is no preset {name!r}; {_suggest(name, preset_names())}", wrong_use=True)
    return _parse_yaml((files("trm_fast.configs") / f"{name}.yaml").read_text(encoding="utf-8"), name)


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a configuration file, not validated yet."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}", wrong_use=True) from None
    return _parse_yaml(text, str(path))


def parse_section(text: str) -> dict[str, Any]:
    """A task's name, or its section as YAML on one line, as the sections of a ``task:``."""
    value = _parse_value(text, f"task={text}")
    return value if isinstance(value, dict) else {"name": str(value)}


def apply_settings(sections: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """The sections with ``section.key=value`` settings applied; values are YAML."""
    result = {name: dict(section) if isinstance(section, Mapping) else section for name, section in sections.items()}
    for setting in settings:
        key, equals, value = setting.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot or not name:
            raise UserError(
                f"--set takes section.key=value, such as training.batch_size=16, not {setting!r}", wrong_use=True
            )
        if result.get(section) is None:
            result[section] = {}
        if not isinstance(result[section], dict):
            raise UserError(f"--set {setting}: {section} is not a section", wrong_use=True)
        result[section][name] = _parse_value(value, setting)
    return result


def make_config(sections: Mapping[str, Any], where: str) -> RunConfig:
    """Validates sections; an unknown, missing or ill-typed key is a UserError that names it and ``where`` it stands."""
    task_section = sections.get("task")
    if not isinstance(task_section, Mapping) or not isinstance(task_section.get("name"), str):
        raise UserError(f"{where}: task.name is missing: it says which task to train", wrong_use=True)
    task_type = get_task(task_section["name"])
    task_config = _validated(task_type.Config, task_section, "task", where)
    task = task_type(task_config)
    model = sections.get("model") or {}
    if not isinstance(model, Mapping):
        raise UserError(f"{where}: model must be a section of keys, not {model!r}", wrong_use=True)
    data = _validated(DataConfig, sections.get("data") or {}, "data", where)
    given = task.model_keys(data)
    for key, value in given.items():
        mine = model.get(key)
        if mine is not None and mine != value and (not isinstance(mine, list) or tuple(mine) != value):
            raise UserError(
                f"{where}: model.{key} is {mine}, but task {task.name} has {value}; leave it out", wrong_use=True
            )
    parts: dict[str, Any] = {**sections, "task": task_config}
    parts["model"] = _validated(TRMConfig, {**model, **given}, "model", where)
    parts["data"] = data
    parts["training"] = _validated(TrainingConfig, sections.get("training") or {}, "training", where)
    return _validated(RunConfig, parts, "", where)


def _validated(kind: type[Any], section: Any, name: str, where: str) -> Any:
    if not isinstance(section, Mapping):
        raise UserError(f"{where}: {name} must be a section of keys, not {section!r}", wrong_use=True)
    try:
        return kind.model_validate(dict(section))
    except ValidationError as error:
        raise UserError(
            f"{where}: " + "; ".join(_explain(e, kind, name) for e in error.errors()[:3]), wrong_use=True
        ) from None


def _explain(error: Any, kind: type[BaseModel], section: str) -> str:
    """One line for one of pydantic's errors: the key, what is wrong, and the name that was meant."""
    key = ".".join(str(part) for part in (section, *error["loc"][:1]) if part != "")
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}; {_suggest(str(error['loc'][0]), kind.model_fields)}"
    if error["type"] == "missing":
        return f"{key} is missing" if len(error["loc"]) == 1 else f"{key} = {error['input']!r} has too few values"
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return f"{section}: {message}" if section else message
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _suggest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else "there are: " + ", ".join(names)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-4`` as text and lets a key stand twice; neither is what a person means."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue  # the base class refuses the first and merges the second
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def _parse_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        sections = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{where}{line}: not valid YAML: {getattr(error, 'problem', None) or error}", wrong_use=True
        ) from None
    if not isinstance(sections, dict):
        raise UserError(f"{where}: a configuration has sections (task, data, model, training)", wrong_use=True)
    return sections


def _parse_value(text: str, setting: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise UserError(f"--set {setting}: {text!r} is not a YAML value", wrong_use=True) from None
