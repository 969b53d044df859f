"""The configuration of a run: task, data, model and training in one YAML file."""

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

from trm_fast.inference.options import SolverConfig
from trm_fast.models import Depth, TRMConfig, TRMModel
from trm_fast.models.halting import RULES
from trm_fast.models.loss import HALTING_WEIGHT
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
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TrainingConfig(Section):
    """The ``training:`` section. The defaults are the published recipe for sudoku (arXiv 2510.04871, section 5)."""

    steps: int = Field(65_104, ge=1)
    """Number of optimizer steps of the whole run."""
    supervision: Literal["carry", "unrolled"] = "carry"
    """``carry``: one optimizer step per supervision step, as published; ``unrolled``: one optimizer step on the mean
    loss of all supervision steps, on new examples each time."""
    batch_size: int = Field(768, ge=1)
    """Number of examples in a training step, over all processes."""
    gradient_accumulation: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Number of parts in which a batch is computed; ``auto``: the fewest that fit into memory."""
    optimizer: Annotated[str, AfterValidator(OPTIMIZERS.require)] = "adam_atan2"
    """An optimizer that is registered in ``trm_fast.training.optimizers``."""
    optimizer_options: dict[str, Any] = Field({})
    """Options of the optimizer, such as nesterov."""
    learning_rate: float = Field(1e-4, gt=0)
    """Learning rate after the warm-up."""
    embedding_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of embedding tables, on the same schedule; None: ``learning_rate``."""
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = (0.9, 0.95)
    """Decay of the averages of gradients and of their squares; ``sgd`` uses only the first."""
    weight_decay: float = Field(1.0, ge=0)
    """Decoupled weight decay, multiplied by the learning rate."""
    hold_steps: int = Field(0, ge=0)
    """Number of steps at rate 0 at the start, which fill the moments and the carry."""
    warmup_steps: int = Field(2000, ge=0)
    """Number of steps in which the rate rises linearly from 0, after ``hold_steps``."""
    warmup_ratio: float | None = Field(None, ge=0, le=1)
    """The same as a share of ``steps``, in the place of ``warmup_steps``; None: ``warmup_steps`` applies. A run that is
    resumed with another number of ``steps`` has another warm-up from there."""
    schedule: Annotated[str, AfterValidator(SCHEDULES.require)] = "constant"
    """A learning-rate schedule that is registered in ``trm_fast.training.schedule``."""
    schedule_steps: int | None = Field(None, ge=1)
    """The step at which the schedule ends; None: the last step."""
    final_learning_rate: float = Field(0.1, ge=0, le=1)
    """The schedule's final rate, as a share of ``learning_rate``."""
    depth: Stages = ()
    """Curriculum: stages of shallower recursion, each up to a step. After the last stage, the model's depth applies."""
    easy_first: int = Field(0, ge=0)
    """Number of first training examples that come from a growing share of the data, easy ones first; 0: none."""
    halting_weight: float = Field(HALTING_WEIGHT, ge=0)
    """Weight of the halting loss relative to the answer's loss."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread evenly over all classes: tokens, decisions or tools."""
    initial_state: Literal["fixed", "random"] = "fixed"
    """The state that training examples start from. ``random``: at each position a random direction with the root mean
    square of the fixed state, 1 (arXiv 2605.21488); the solver still starts from the fixed one."""
    state_noise: float = Field(0.0, ge=0)
    """Standard deviation of the Gaussian noise that training adds to the latent state before each supervision step."""
    clip_norm: float | None = Field(None, gt=0)
    """Maximum gradient norm; None: no clipping, as published."""
    puzzle_learning_rate: float = Field(1e-4, gt=0)
    """Learning rate of the puzzle embedding, for models with a prefix."""
    puzzle_weight_decay: float = Field(1.0, ge=0)
    """Weight decay of the puzzle embedding."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the averaged weights, which are evaluated and saved; 0: no average."""
    exploration: float = Field(0.1, ge=0, le=1)
    """Share of slots that get a random minimum of supervision steps in each step."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of activations; ``auto``: bfloat16 on a GPU, as published, and on a CPU with fast products in bfloat16 (but
    not for real numbers), otherwise float32. A resumed run keeps its dtype on the same kind of device."""
    no_grad_dtype: Literal["same", "fp8", "fp8-emulated"] = "same"
    """Dtype of products in cycles without gradient; ``fp8-emulated`` gives the same results on any device,
    slowly."""
    graph: Switch = "auto"
    """``auto``: on a GPU, the step is captured as a CUDA graph; ``off``: it is not."""
    recompute: Literal["none", "latent"] = "none"
    """``latent``: save only the input of each latent step, and recompute the rest in the backward."""
    seed: int = Field(0, ge=0, lt=2**64)
    """Seed of the weights, the data and its order."""
    log_every: int = Field(10, ge=1)
    """Number of steps between records of metrics."""
    eval_every: int = Field(0, ge=0)
    """Number of steps between evaluations; 0: only one at the end."""
    eval_count: int = Field(1000, ge=1)
    """Maximum number of test examples per evaluation."""
    eval_loss_count: int = Field(64, ge=0)
    """Maximum number of test examples whose loss an evaluation also computes, in all supervision steps; 0: none."""
    checkpoint_every: int = Field(1000, ge=1)
    """Number of steps between checkpoints."""
    keep_checkpoints: int = Field(3, ge=1)
    """Number of newest checkpoints to keep, besides the best one."""

    @field_validator("optimizer_options")
    @classmethod
    def _known_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if (name := info.data.get("optimizer")) is not None:  # None: an unknown optimizer, another error
            kind = OPTIMIZERS[name].options_type
            try:
                kind.model_validate(options)
            except ValidationError as error:
                raise ValueError(explain(error, kind, "")) from None
        return options

    def make_optimizer(self, model: TRMModel) -> Optimizer:
        """Creates the optimizer of a model's parameters. Embedding tables get ``embedding_learning_rate``."""
        tables = {id(module.weight) for module in model.embedding.modules() if isinstance(module, Embedding)}
        table_rate = (self.embedding_learning_rate or self.learning_rate) / self.learning_rate
        return OPTIMIZERS[self.optimizer].for_model(
            model,
            self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            ema_decay=self.ema_decay or None,
            rates=[table_rate if id(p) in tables else 1.0 for p in model.parameters()],
            **self.optimizer_options,
        )

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of ``step``, counted from 1.

        It is 0 for ``hold_steps``, rises linearly for ``warmup_steps`` or ``warmup_ratio``, follows the schedule to
        ``final_learning_rate``, and then stays constant.

        Examples:
            >>> training = TrainingConfig(learning_rate=1.0, hold_steps=1, warmup_steps=2)
            >>> [training.learning_rate_at(step) for step in (1, 2, 3, 4)]
            [0.0, 0.5, 1.0, 1.0]
        """
        rising = self.warmup_steps if self.warmup_ratio is None else round(self.warmup_ratio * self.steps)
        warm = self.hold_steps + rising
        if step < warm or step <= self.hold_steps:
            return self.learning_rate * max(0, step - self.hold_steps) / max(1, rising)
        progress = min(1.0, (step - warm) / max(1, (self.schedule_steps or self.steps) - warm))
        return self.learning_rate * SCHEDULES[self.schedule](progress, self.final_learning_rate)


class RunConfig(Section):
    """The configuration of a run. ``task`` is an instance of the task's ``Config``. The task determines some keys of
    ``model``, such as ``vocab_size`` and ``seq_len``."""

    task: SerializeAsAny[TaskConfig]
    data: DataConfig = DataConfig()
    model: TRMConfig
    training: TrainingConfig = TrainingConfig()
    solver: SolverConfig = SolverConfig()
    """How the trained model is solved with by default; evaluations during the run make one plain try."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model.head.learns_from_last_step and self.training.supervision != "unrolled":
            raise ValueError("model.head.arguments: last needs training.supervision: unrolled")
        if self.model.head.learns_from_last_step and RULES[self.model.halting].whole_batch:
            raise ValueError("model.head.arguments: last needs model.halting: row; a batch that ends early has no last")
        if self.training.label_smoothing and not self.model.head.smooths_labels:
            raise ValueError(f"training.label_smoothing is not for model.head.kind: {self.model.head.kind}")
        if self.training.recompute != "none" and self.model.dropout:
            raise ValueError("training.recompute needs model.dropout: 0, or it would compute with other random numbers")
        if self.model.initial_states > 1 and self.model.dropout:
            raise ValueError(
                "model.initial_states above 1 needs model.dropout: 0, or the chosen state would be computed "
                "again with other random numbers"
            )
        for stage in self.training.depth:
            for name, value in stage.depth().items():
                if value > (full := getattr(self.model, name)):
                    raise ValueError(f"training.depth: {name} {value} is deeper than the model's own, {full}")
            try:
                TRMConfig.model_validate(self.model.model_dump() | stage.depth())
            except ValidationError as error:
                text = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"training.depth: until step {stage.until}: {text}") from None
        return self

    def model_at(self, step: int) -> TRMConfig:
        """The model's configuration at ``step``, counted from 1, with the depth of its stage."""
        return self.model.model_copy(update=self.depth_at(step)._asdict())

    def depth_at(self, step: int) -> Depth:
        """The depth of recursion at ``step``, counted from 1: that of the step's stage, or the model's after the last
        stage."""
        stage = next((stage for stage in self.training.depth if step <= stage.until), None)
        return self.model.depth._replace(**stage.depth()) if stage else self.model.depth

    def flop(self) -> int:
        """Matrix FLOP of all training steps of the run, per row of the batch."""
        total, counted = 0, 0
        for until in (*(stage.until for stage in self.training.depth), self.training.steps):
            count = max(0, min(until, self.training.steps) - counted)
            total += count * self.step_flop(self.model_at(counted + 1))
            counted += count
        return total

    def step_flop(self, model: TRMConfig) -> int:
        """Matrix FLOP of one training step of ``model``, per row of the batch. With several initial states, all of
        them are first advanced without gradient."""
        supervision_steps = model.max_supervision_steps if self.training.supervision == "unrolled" else 1
        forwards = model.initial_states if model.initial_states > 1 else 0
        return supervision_steps * (model.gemm_flop(training=True) + forwards * model.gemm_flop(training=False))

    def compute_dtype(self, device: torch.device) -> torch.dtype:
        """The dtype of activations on ``device``."""
        return DTYPES.get(self.training.dtype) or self.model.auto_dtype(device)

    def make_task(self) -> Task:
        """Creates the task of the section ``task``."""
        return get_task(self.task.name)(self.task)

    def to_yaml(self) -> str:
        """The configuration as YAML, including all defaults."""
        yaml, text = YAML(typ="safe", pure=True), StringIO()
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.dump(self.model_dump(mode="json"), text)
        return text.getvalue()
