"""ONNX of one supervision step, and of the whole halting loop around it."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from trm_fast import ops
from trm_fast.errors import UserError
from trm_fast.models import ForwardOptions, TRMModel
from trm_fast.models.halting import RowHalting, halting_rule
from trm_fast.models.heads.values import ValuesConfig
from trm_fast.nn import State

OPSET = 17


class _Step(nn.Module):
    """A supervision step as a function of tensors: (inputs, z[, y][, puzzle_ids][, mask]) -> (z[, y], answer, q)."""

    def __init__(self, model: TRMModel, masked: bool, answers: bool) -> None:
        super().__init__()
        self.model, self.answers = model, answers
        self.dual, self.masked = model.config.state == "dual", masked

    def names(self) -> tuple[list[str], list[str]]:
        """Names of what goes in and of what comes out."""
        states = ["z", "y"] if self.dual else ["z"]
        into = ["inputs", *states, *(["puzzle_ids"] if self.model.config.prefix_tokens else [])]
        answer = "answers" if self.answers else "logits" if self.model.config.head.kind == "tokens" else "values"
        return into + ["mask"] * self.masked, [f"next_{name}" for name in states] + [answer, "q"]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names()[0], tensors, strict=True))
        puzzle_ids = given.get("puzzle_ids")
        rows = None if puzzle_ids is None else self.model.puzzle_rows(puzzle_ids, len(puzzle_ids))
        state, options = State(given.get("y"), given["z"]), ForwardOptions(static_shapes=True)
        out = self.model(given["inputs"], state, rows, given.get("mask"), options=options)
        found = self.model.head.answers(out.logits) if self.answers else out.logits
        states = (out.state.z, out.state.y) if self.dual else (out.state.z,)
        return (*states, found, out.q)


def export_step(model: TRMModel, path: Path, *, masked: bool = False) -> None:
    """Writes one supervision step: ``inputs`` int64 (B, L), or float32 (B, L, F), and the state ``z``, ``y``
    (B, P + L, D or a width of its own) in; ``next_z``, ``next_y``, ``logits`` (or ``values``) and ``q`` (B,) out.

    ``puzzle_ids`` int64 (B,) goes in where there is a puzzle embedding, ``mask`` bool (B, L) with ``masked``. B may be
    anything. The first state is that of ``model.initial_state``, kept in the file's metadata as ``z_init``, ``y_init``.
    """
    graph = _exported(model, masked, answers=False)
    for name in ("z_init", "y_init"):
        if (start := getattr(model, name)) is not None:
            graph.metadata_props.add(key=name, value=" ".join(f"{v:.9g}" for v in start.tolist()))
    _write(graph, path)


def export_solve(model: TRMModel, path: Path, max_steps: int, *, masked: bool = False) -> None:
    """Writes the whole of ``model.solve``: ``inputs`` in; ``solution``, ``confidence`` float32 (B,), ``steps`` int64
    (B,) and ``converged`` bool (B,) out. A row whose halting logit says so keeps its answer.
    """
    _write(_looped(_exported(model, masked, answers=True), model, max_steps), path)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise UserError('ONNX needs further packages: pip install "trm-fast[onnx]"') from None
    return onnx


def _exported(model: TRMModel, masked: bool, answers: bool) -> Any:
    """The ONNX model of a step, through the reference ops: the kernels are no ONNX operators."""
    onnx = _onnx()
    config = model.config
    if config.head.kind not in ("tokens", "values"):
        raise UserError(f"ONNX export knows answers of tokens and of values, not {config.head.kind}")
    model = model.cpu().eval()
    step = _Step(model, masked, answers)
    names, results = step.names()
    B, L = 2, config.seq_len
    state = model.initial_state(B)
    made = {
        "inputs": torch.ones(B, L, dtype=torch.int64)
        if config.inputs == "tokens"
        else torch.ones(B, L, config.input_width),
        "puzzle_ids": torch.zeros(B, dtype=torch.int64),
        "mask": torch.ones(B, L, dtype=torch.bool),
        "z": state.z.contiguous(),
        "y": None if state.y is None else state.y.contiguous(),
    }
    quiet = warnings.catch_warnings()
    with TemporaryDirectory() as folder, torch.no_grad(), ops.use_backend("reference"), quiet:
        # The exporter that traces takes a second where the other one takes a minute, and needs no further package.
        warnings.simplefilter("ignore")
        file = Path(folder) / "step.onnx"
        torch.onnx.export(
            step, tuple(made[name] for name in names), str(file), input_names=names, output_names=results,
            dynamic_axes={name: {0: "B"} for name in names + results}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
        return onnx.load(file)


def _looped(step: Any, model: TRMModel, max_steps: int) -> Any:
    """The step's graph as the body of a loop over steps, whose rows freeze when they halt."""
    onnx = _onnx()
    h, T = onnx.helper, onnx.TensorProto
    config, graph = model.config, step.graph
    rule = halting_rule(config.halting, config.q_threshold)
    if not isinstance(rule, RowHalting):
        raise UserError(f"the ONNX loop halts row by row, not by model.halting: {config.halting}; export one step")
    states = {name: t.shape[-1] for name, t in (("z", model.z_init), ("y", model.y_init)) if t is not None}
    head = config.head
    width = [head.width] if isinstance(head, ValuesConfig) else []
    tokens = not width
    kinds: dict[str, tuple[int, list[Any]]] = {
        **{name: (T.FLOAT, ["B", config.total_tokens, width]) for name, width in states.items()},
        "solution": (T.INT64 if tokens else T.FLOAT, ["B", config.seq_len, *width]),
        "confidence": (T.FLOAT, ["B"]),
        "steps": (T.INT64, ["B"]),
        "converged": (T.BOOL, ["B"]),
        "thinking": (T.BOOL, ["B"]),
    }
    constants = {
        **{f"first_{name}": getattr(model, f"{name}_init").reshape(1, 1, -1).numpy() for name in states},
        "axes_state": _ints(1, 2), "axes_places": _ints(*range(1, len(kinds["solution"][1]))),
        "first": _ints(0), "most_steps": _int(max_steps),
        "true": torch.tensor(True).numpy(), "threshold": torch.tensor(rule.logit).numpy(),
        **{f"tail_{name}": _ints(*shape[1:]) for name, (_, shape) in kinds.items() if len(shape) > 1},
    }  # fmt: skip

    # What the rows start from.
    before = [
        h.make_node("Shape", ["inputs"], ["whole_shape"]),
        h.make_node("Gather", ["whole_shape", "first"], ["B1"]),
    ]
    for name, (kind, shape) in kinds.items():
        sizes = "B1"
        if len(shape) > 1:
            sizes = f"shape_{name}"
            before.append(h.make_node("Concat", ["B1", f"tail_{name}"], [sizes], axis=0))
        if name in states:
            before.append(h.make_node("Expand", [f"first_{name}", sizes], [f"start_{name}"]))
        else:
            fill = h.make_tensor("value", kind, [1], [int(name == "thinking")])
            before.append(h.make_node("ConstantOfShape", [sizes], [f"start_{name}"], value=fill))

    # One turn: the step, then only rows that still think take what it says.
    now = {name: name if name in states else f"now_{name}" for name in kinds}  # names outside must not be used again
    body = [
        *graph.node,
        h.make_node("Unsqueeze", ["now_thinking", "axes_state"], ["thinking_state"]),
        h.make_node("Unsqueeze", ["now_thinking", "axes_places"], ["thinking_places"]),
        h.make_node("Sigmoid", ["q"], ["sure"]),
        h.make_node("Greater", ["q", "threshold"], ["says_so"]),
        h.make_node("And", ["now_thinking", "says_so"], ["halts"]),
        h.make_node("Cast", ["now_thinking"], ["thinking_count"], to=T.INT64),
        *(h.make_node("Where", ["thinking_state", f"next_{n}", n], [f"next_kept_{n}"]) for n in states),
        h.make_node("Where", ["thinking_places", "answers", "now_solution"], ["next_kept_solution"]),
        h.make_node("Where", ["now_thinking", "sure", "now_confidence"], ["next_kept_confidence"]),
        h.make_node("Add", ["now_steps", "thinking_count"], ["next_kept_steps"]),
        h.make_node("Or", ["now_converged", "halts"], ["next_kept_converged"]),
        h.make_node("Not", ["says_so"], ["goes_on"]),
        h.make_node("And", ["now_thinking", "goes_on"], ["next_kept_thinking"]),
        h.make_node("Cast", ["next_kept_thinking"], ["left"], to=T.INT64),
        h.make_node("ReduceMax", ["left"], ["any_left"], keepdims=0),
        h.make_node("Cast", ["any_left"], ["more"], to=T.BOOL),
    ]
    info = h.make_tensor_value_info
    turn = h.make_graph(
        body,
        "supervision_step",
        [info("turn", T.INT64, []), info("go", T.BOOL, []), *(info(now[n], *kind) for n, kind in kinds.items())],
        [info("more", T.BOOL, []), *(info(f"next_kept_{n}", *kind) for n, kind in kinds.items())],
    )
    ends = [f"end_{n}" if n in states or n == "thinking" else n for n in kinds]
    loop = h.make_node("Loop", ["most_steps", "true", *(f"start_{n}" for n in kinds)], ends, body=turn)
    whole = h.make_graph(
        [*before, loop],
        "solve",
        [value for value in graph.input if value.name not in states],
        [info(n, *kinds[n]) for n in ("solution", "confidence", "steps", "converged")],
        initializer=[*graph.initializer, *(onnx.numpy_helper.from_array(v, n) for n, v in constants.items())],
    )
    return h.make_model(whole, opset_imports=step.opset_import, ir_version=step.ir_version)


def _ints(*values: int) -> Any:
    return torch.tensor(values, dtype=torch.int64).numpy()


def _int(value: int) -> Any:
    return torch.tensor(value, dtype=torch.int64).numpy()


def _write(model: Any, path: Path) -> None:
    onnx = _onnx()
    onnx.checker.check_model(model, full_check=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(path))
    except OSError as error:
        raise UserError(f"{path} can't be written: {error}") from None
