"""A run's configuration: task, data, model and training in one YAML file, typed and validated key by key."""

from __future__ import annotations

from io import StringIO
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    Strict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from typing_extensions import Self

from trm_fast.models import Depth, TRMConfig, TRMModel
from trm_fast.models.halting import RULES
from trm_fast.nn.layers import Embedding
from trm_fast.tasks import Task, get_task
from trm_fast.tasks.base import DataConfig, TaskConfig
from trm_fast.training.curriculum import Stages
from trm_fast.training.optimizers import OPTIMIZERS, Optimizer
from trm_fast.training.schedule import SCHEDULES
from trm_fast.validation import Section, explain

# YAML 1.1 reads a bare off as false.
Switch = Annotated[Literal["auto", "off"], BeforeValidator(lambda value: "off" if value is False else value)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Section):
    """The ``training:`` section. Defaults are the published recipe for sudoku (arXiv 2510.04871, section 5)."""

    steps: int = Field(65_104, ge=1, description="optimizer steps of the whole run")
    supervision: Literal["carry", "unrolled"] = Field(
        "carry",
        description="carry: an optimizer step after each supervision step, as published; unrolled: all supervision "
        "steps of fresh examples, their mean loss, one optimizer step",
    )
    batch_size: int = Field(768, ge=1)
    gradient_accumulation: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="parts a batch is computed in; auto takes as few as memory allows"
    )
    optimizer: Annotated[str, AfterValidator(OPTIMIZERS.known)] = Field(
        "adam_atan2", description="a name of trm_fast.training.optimizers"
    )
    optimizer_options: dict[str, Any] = Field({}, description="what this optimizer alone has, such as nesterov")
    learning_rate: float = Field(1e-4, gt=0)
    embedding_learning_rate: float | None = Field(
        None, gt=0, description="of tables of embeddings, on the same schedule; null for learning_rate"
    )
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = Field(
        (0.9, 0.95), description="decay of the averages of gradients and of their squares; sgd has the first alone"
    )
    weight_decay: float = Field(1.0, ge=0)
    hold_steps: int = Field(0, ge=0, description="first steps at rate 0, which fill the moments and the carry")
    warmup_steps: int = Field(2000, ge=0)
    schedule: Annotated[str, AfterValidator(SCHEDULES.known)] = Field(
        "constant", description="a name of trm_fast.training.schedule"
    )
    schedule_steps: int | None = Field(None, ge=1, description="step at which the schedule ends; null for the last")
    final_learning_rate: float = Field(0.1, ge=0, le=1, description="the schedule's last rate, as a share of the first")
    depth: Stages = Field(
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

    @field_validator("optimizer_options")
    @classmethod
    def _known_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if (name := info.data.get("optimizer")) is not None:  # an unknown one is refused by itself
            kind = OPTIMIZERS[name].options_type
            try:
                kind.model_validate(options)
            except ValidationError as error:
                raise ValueError(explain(error, kind, "")) from None
        return options

    def make_optimizer(self, model: TRMModel) -> Optimizer:
        """Of a model's parameters; its tables of embeddings have ``embedding_learning_rate``."""
        tables = {id(module.weight) for module in model.embedding.modules() if isinstance(module, Embedding)}
        apart = (self.embedding_learning_rate or self.learning_rate) / self.learning_rate
        return OPTIMIZERS[self.optimizer].for_model(
            model,
            self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            ema_decay=self.ema_decay or None,
            rates=[apart if id(p) in tables else 1.0 for p in model.parameters()],
            **self.optimizer_options,
        )

    def learning_rate_at(self, step: int) -> float:
        """The rate of step 1, 2, ...: 0 for ``hold_steps``, linear over ``warmup_steps``, then the schedule down to
        ``final_learning_rate`` at its last step, where it stays."""
        warm = self.hold_steps + self.warmup_steps
        if step < warm or step <= self.hold_steps:
            return self.learning_rate * max(0, step - self.hold_steps) / max(1, self.warmup_steps)
        progress = min(1.0, (step - warm) / max(1, (self.schedule_steps or self.steps) - warm))
        return self.learning_rate * SCHEDULES[self.schedule](progress, self.final_learning_rate)


class RunConfig(Section):
    """All of a run. ``task`` is the task's own section; ``model`` takes its vocabulary and length from the task."""

    task: SerializeAsAny[TaskConfig]
    data: DataConfig = DataConfig()
    model: TRMConfig
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model.head.learns_from_last_step and self.training.supervision != "unrolled":
            raise ValueError("model.head.arguments: last needs training.supervision: unrolled")
        if self.model.head.learns_from_last_step and RULES[self.model.halting].whole_batch:
            raise ValueError("model.head.arguments: last needs model.halting: row; a batch that ends early has no last")
        if self.training.recompute != "none" and self.model.dropout:
            raise ValueError("training.recompute needs model.dropout: 0, or it would compute with other random numbers")
        for stage in self.training.depth:
            for name, value in stage.depth().items():
                if value > (own := getattr(self.model, name)):
                    raise ValueError(f"training.depth: {name} {value} is deeper than the model's own, {own}")
            try:
                TRMConfig.model_validate(self.model.model_dump() | stage.depth())
            except ValidationError as error:
                text = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"training.depth: until step {stage.until}: {text}") from None
        return self

    def model_at(self, step: int) -> TRMConfig:
        """The model that step 1, 2, ... trains: the whole one but for the depth of its stage."""
        return self.model.model_copy(update=self.depth_at(step)._asdict())

    def depth_at(self, step: int) -> Depth:
        """The depth of ``model_at``: that of the first stage that ``step`` is not behind, or the model's own."""
        stage = next((stage for stage in self.training.depth if step <= stage.until), None)
        return self.model.depth._replace(**stage.depth()) if stage else self.model.depth

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
        dtype = self.training.dtype
        low_precision = dtype == "bfloat16" or (dtype == "auto" and device.type == "cuda")
        return torch.bfloat16 if low_precision else torch.float32

    def make_task(self) -> Task:
        return get_task(self.task.name)(self.task)

    def to_yaml(self) -> str:
        yaml, text = YAML(typ="safe", pure=True), StringIO()
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.dump(self.model_dump(mode="json"), text)
        return text.getvalue()
