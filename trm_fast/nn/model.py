"""The Tiny Recursive Model: embedding, recursion and heads joined; one supervision step is one call."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from trm_fast.errors import UserError
from trm_fast.nn import fp8
from trm_fast.nn.block import Network, State, run_cycles
from trm_fast.nn.capture import graphs_on
from trm_fast.nn.config import TRMConfig
from trm_fast.nn.copies import once
from trm_fast.nn.heads import HEADS, QHead
from trm_fast.nn.incremental import Incremental
from trm_fast.nn.layers import InputEmbedding, Linear, truncated_normal_
from trm_fast.nn.loss import Loss
from trm_fast.nn.optim import AdamATan2
from trm_fast.nn.thinking import think

FORMAT_VERSION = 1


class Output(NamedTuple):
    """One supervision step: the state behind it (detached), the answer head's prediction, such as logits (B, L, V), and
    halting logits q (B,) float32."""

    state: State
    logits: Any
    q: Tensor


class TRM(nn.Module):
    """A Tiny Recursive Model (arXiv 2510.04871).

    Weights are float32; ``compute_dtype`` (float32 or bfloat16) is what the state and all activations have.
    """

    puzzle_embedding: Tensor | None
    z_init: Tensor
    y_init: Tensor | None

    def __init__(self, config: TRMConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.embedding = InputEmbedding(config)
        self.net = Network(config)
        self.head = HEADS[config.outputs](config)
        self.q_head = QHead(config)
        # Not parameters: the start of recursion is never trained, and puzzle rows have an optimizer of their own.
        # States of their own widths start at zero, where nothing drowns the question.
        z, y = torch.empty(config.latent_width), torch.empty(config.answer_width)
        start = nn.init.zeros_ if config.state_widths == "own" else partial(truncated_normal_, std=1.0)
        self.register_buffer("z_init", start(z))
        self.register_buffer("y_init", start(y) if config.answer_width else None)
        rows = torch.zeros(config.num_puzzles, config.puzzle_embedding_size) if config.prefix_tokens else None
        self.register_buffer("puzzle_embedding", rows)
        self.no_grad_products: fp8.Mode | None = None  # of training's cycles without gradient
        self.recompute = False  # in training, the latent steps: less memory for a third more time
        self._optimizer: AdamATan2 | None = None  # of train_step, when it is given none

    def num_parameters(self) -> int:
        """Trained numbers, the puzzle embedding included."""
        rows = 0 if self.puzzle_embedding is None else self.puzzle_embedding.numel()
        return rows + sum(p.numel() for p in self.parameters())

    def linear_weights(self) -> list[Tensor]:
        """Of every linear map: what products round to the activations' dtype."""
        return [part.weight for part in self.modules() if isinstance(part, Linear)]

    static_shapes = False
    """Set while a step is recorded or exported: no shape may then depend on what a mask holds."""

    @contextmanager
    def with_static_shapes(self) -> Iterator[None]:
        before, self.static_shapes = self.static_shapes, True
        self.head.static_shapes = True
        try:
            yield
        finally:
            self.static_shapes = before
            self.head.static_shapes = before

    def initial_state(self, batch: int) -> State:
        """The state (B, P + L, D) every example starts from; its parts may have widths of their own."""
        shape = (batch, self.config.total_tokens, -1)
        y, z = (t if t is None else t.to(self.compute_dtype).expand(shape) for t in (self.y_init, self.z_init))
        return State(y, z)  # type: ignore[arg-type]

    def puzzle_rows(self, puzzle_ids: Tensor | None, batch: int) -> Tensor | None:
        """Each example's row of the puzzle embedding (B, E), row 0 by default; None in a model without a prefix."""
        if self.puzzle_embedding is None:
            return None
        if puzzle_ids is None:
            return self.puzzle_embedding[:1].expand(batch, -1)
        return self.puzzle_embedding[puzzle_ids]

    def forward(
        self,
        inputs: Tensor,
        state: State,
        puzzle_rows: Tensor | None = None,
        mask: Tensor | None = None,
        **extra: Tensor,
    ) -> Output:
        """One supervision step: T - 1 cycles without gradient, one with.

        inputs (B, L) int, or (B, L, F) values; puzzle_rows (B, E) in a model with a prefix; mask (B, L) bool, False on
        padding; ``extra``: what else the embedding and the head of this model take.
        """
        x = self.embedding(inputs, puzzle_rows, self.compute_dtype, **extra)
        seen, whole = mask, state
        if mask is not None:
            seen = F.pad(mask, (self.config.prefix_tokens, 0), value=True)
            x, state, seen = self._without_padding(x, state, seen)
        last = int(torch.is_grad_enabled())  # without gradient all cycles are alike, and one call
        with once([] if self.net.packs(x) else self.net.weights(), x.dtype):
            with torch.no_grad(), fp8.products(self.no_grad_products if last else None):
                state = run_cycles(self.net, state, x, self.config, seen, count=self.config.T_cycles - last)
            if last:
                state = run_cycles(self.net, state, x, self.config, seen, recompute=self.recompute)
        state = state.extended(whole)
        answer = self.net.read(state)
        return Output(state.detach(), self.head(answer, inputs=inputs, mask=mask, **extra), self.q_head(answer, mask))

    def _without_padding(self, x: Tensor, state: State, seen: Tensor) -> tuple[Tensor, State, Tensor | None]:
        """The places up to the longest row's last one, and no mask where that leaves no padding: a batch of rows of
        like length costs what it holds. A token mixer has a weight for every place, and a GPU's graph a fixed shape:
        they keep the padding."""
        if self.config.mixing != "attention" or x.device.type != "cpu" or self.static_shapes:
            return x, state, seen
        places = max(1, int((seen.any(0) * torch.arange(1, seen.shape[1] + 1)).max()))
        seen = seen[:, :places]
        return x[:, :places], state.places(places), None if bool(seen.all()) else seen

    def loss(self, out: Output, labels: Tensor, **extra: Any) -> Loss:
        """The loss of a supervision step against the labels of its rows."""
        loss: Loss = self.head.loss(out.logits, out.q, labels, **extra)
        return loss

    def train_step(
        self,
        inputs: Tensor,
        labels: Tensor,
        optimizer: torch.optim.Optimizer | None = None,
        puzzle_ids: Tensor | None = None,
    ) -> dict[str, float]:
        """Deep supervision on one batch (B rows): up to ``max_supervision_steps`` optimizer steps.

        Stops when every row halts. Without an optimizer the model keeps an ``AdamATan2`` of its own. Returns the
        last ``loss`` (a row), ``accuracy`` (cells), ``exact_accuracy`` and the ``steps`` taken. It is the small way to
        train; ``trm_fast.Trainer`` refills halted rows, averages weights, schedules and saves.
        """
        if optimizer is None:
            optimizer = self._optimizer = self._optimizer or AdamATan2(self.parameters())
        state, rows = self.initial_state(len(inputs)), self.puzzle_rows(puzzle_ids, len(inputs))
        for steps in range(1, self.config.max_supervision_steps + 1):  # noqa: B007 (the last value is returned)
            optimizer.zero_grad()
            out = self(inputs, state, rows)
            state, loss = out.state, self.loss(out, labels)
            (loss.total / len(inputs)).backward()
            optimizer.step()
            if bool(self.config.sure(out.q).all()):
                break
        return {
            "loss": loss.total.item() / len(inputs),
            "accuracy": loss.cells.mean().item(),
            "exact_accuracy": loss.exact.float().mean().item(),
            "steps": steps,
        }

    def solve(
        self,
        inputs: Tensor,
        max_steps: int | None = None,
        *,
        halt: bool = True,
        min_steps: int = 1,
        accept: Callable[[Tensor, Tensor], Tensor] | None = None,
        puzzle_ids: Tensor | None = None,
        extra: Mapping[str, Tensor] | None = None,
        return_trajectory: bool = False,
    ) -> dict[str, Any]:
        """Answers a batch of B rows. A row that halts leaves it; the rest goes on, ``max_steps`` at most.

        A row halts when its halting logit says so and ``accept(inputs, answers)``, bool (rows,), agrees.
        Returns ``solution`` (tokens int64 (B, L), or values (B, L, F)), ``confidence`` (B,), ``steps`` (B,),
        ``converged`` (B,), and with ``return_trajectory`` a ``trajectory``: for each step the answers and confidences
        of all rows at that time.
        ``trm_fast.Solver`` does more: tasks and their rules, rollouts, queues longer than a batch.
        """
        B, device = len(inputs), inputs.device
        solution: Tensor | None = None
        confidence = torch.zeros(B, device=device)
        steps = torch.zeros(B, dtype=torch.int64, device=device)
        converged = torch.zeros(B, dtype=torch.bool, device=device)
        trajectory: list[dict[str, Any]] = []
        most = self.config.max_supervision_steps if max_steps is None else max_steps
        agrees = None if accept is None else lambda rows, answers: accept(inputs[rows], answers)
        training = self.training
        self.eval()
        for now in think(
            self, inputs, most, min_steps=min_steps, halt=halt, accept=agrees, puzzle_ids=puzzle_ids, extra=extra,
            runner=graphs_on(device) if device.type == "cuda" else None,
        ):  # fmt: skip
            if solution is None:
                solution = now.answers.new_zeros(B, *now.answers.shape[1:])
            solution[now.rows], confidence[now.rows], steps[now.rows] = now.answers, now.confidence, now.steps
            converged[now.rows] = now.halted
            if return_trajectory:
                step = len(trajectory) + 1
                trajectory.append({"step": step, "solution": solution.clone(), "confidence": confidence.clone()})
        self.train(training)
        if solution is None:  # no rows, or no steps
            solution = self.head.answers(self.head(self.net.read(self.initial_state(B))))
        result = {"solution": solution, "confidence": confidence, "steps": steps, "converged": converged}
        return result | ({"trajectory": trajectory} if return_trajectory else {})

    def incremental(self) -> Incremental:
        """A row that grows token by token, in a causal text model."""
        return Incremental(self)

    def save_pretrained(self, folder: str | os.PathLike[str], **sections: Any) -> None:
        """Writes ``config.json`` (configuration and further JSON ``sections``) and ``model.safetensors``."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        config = {"format_version": FORMAT_VERSION, "model": self.config.model_dump(mode="json"), **sections}
        _replace(path / "model.safetensors", lambda new: save_file(_tensors(self), new))
        _replace(path / "config.json", lambda new: new.write_text(json.dumps(config, indent=2) + "\n"))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], compute_dtype: torch.dtype = torch.float32) -> TRM:
        """The model of a folder that ``save_pretrained`` wrote; UserError where it is not one."""
        path = Path(folder)
        try:
            config = TRMConfig.model_validate(read_model_config(path)["model"])
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{path / 'config.json'}: model.{key}: {first['msg']}") from None
        model = cls(config, compute_dtype)
        load_weights(model, path / "model.safetensors")
        return model.eval()


def read_model_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a model folder: ``model`` and the sections it was saved with."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{path} has no section 'model'")
    if config.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {config.get('format_version')!r}; this version reads {FORMAT_VERSION}"
        )
    return config


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors file into a module; names and shapes must agree."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None
    wanted = _tensors(model)
    if problems := [f"{n} is missing" for n in wanted if n not in tensors] + [
        f"{n} is unknown" for n in tensors if n not in wanted
    ]:
        raise UserError(f"{path} does not fit the model: {'; '.join(problems[:3])}")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, the model wants {tuple(tensor.shape)}"
            )
    model.load_state_dict(tensors)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def _replace(path: Path, write: Any) -> None:
    """Writes under a temporary name and renames, so that a reader never sees half a file."""
    new = path.with_name(path.name + ".new")
    try:
        write(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
