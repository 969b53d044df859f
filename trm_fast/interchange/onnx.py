"""Exports one supervision step, or the whole loop with halting, to ONNX."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trm_fast import ops
from trm_fast.errors import UserError
from trm_fast.models import ForwardOptions, TRMModel
from trm_fast.models.halting import RowHalting, halting_rule
from trm_fast.models.heads.values import ValuesConfig
from trm_fast.nn import State
from trm_fast.writing import make_folder, new_file

OPSET = 17


class _Step(nn.Module):
    """A supervision step as a function of tensors: (inputs, z[, y][, puzzle_ids][, mask]) -> (z[, y], answer, q)."""

    def __init__(self, model: TRMModel, masked: bool, answers: bool) -> None:
        super().__init__()
        self.model, self.answers = model, answers
        self.dual, self.masked = model.config.state == "dual", masked

    def names(self) -> tuple[list[str], list[str]]:
        """The names of the inputs and of the outputs."""
        states = ["z", "y"] if self.dual else ["z"]
        inputs = ["inputs", *states, *(["puzzle_ids"] if self.model.config.prefix_tokens else [])]
        answer = "answers" if self.answers else "logits" if self.model.config.head.kind == "tokens" else "values"
        return inputs + ["mask"] * self.masked, [f"next_{name}" for name in states] + [answer, "q"]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.names()[0], tensors, strict=True))
        puzzle_ids = named.get("puzzle_ids")
        rows = None if puzzle_ids is None else self.model.puzzle_rows(puzzle_ids, len(puzzle_ids))
        state, options = State(named.get("y"), named["z"]), ForwardOptions(static_shapes=True)
        out = self.model(named["inputs"], state, rows, named.get("mask"), options=options)
        answer = self.model.head.answers(out.logits) if self.answers else out.logits
        states = (out.state.z, out.state.y) if self.dual else (out.state.z,)
        return (*states, answer, out.q)


def export_step(model: TRMModel, path: Path, *, masked: bool = False) -> None:
    """Writes one supervision step as an ONNX file for any batch size B.

    Inputs: ``inputs`` int64 (B, L) or float32 (B, L, F); the states ``z`` and, with two states, ``y``, float32 of shape
    (B, prefix + L, width of the state); ``puzzle_ids`` int64 (B,) if the model has a puzzle embedding; ``mask`` bool
    (B, L) with ``masked``. Outputs: ``next_z``, ``next_y``, ``logits`` (or ``values``) and ``q`` (B,). The metadata
    ``z_init`` and ``y_init`` hold the vectors of the (first) initial state.

    Raises:
        UserError: the model's head cannot be exported, or the file cannot be written.
    """
    graph = _exported(model, masked, answers=False)
    for name, start in model.first_vectors().items():
        graph.metadata_props.add(key=f"{name}_init", value=" ".join(f"{v:.9g}" for v in start.tolist()))
    _write(graph, path)


def export_solve(model: TRMModel, path: Path, max_steps: int, *, masked: bool = False) -> None:
    """Writes the whole loop of ``model.solve`` as an ONNX file. A row that has halted keeps its answer.

    Inputs are those of ``export_step`` without the states. Outputs: ``solution``, ``confidence`` float32 (B,),
    ``steps`` int64 (B,) and ``converged`` bool (B,).

    Raises:
        UserError: the model's head or halting rule cannot be exported, or the file cannot be written.
    """
    _write(_looped(_exported(model, masked, answers=True), model, max_steps), path)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise UserError('ONNX export needs more packages: pip install "trm-fast[onnx]"') from None
    return onnx


def _exported(model: TRMModel, masked: bool, answers: bool) -> Any:
    """The ONNX model of a step. It is traced with the reference ops, because kernels are not ONNX operators."""
    onnx = _onnx()
    config = model.config
    if config.head.kind not in ("tokens", "values"):
        raise UserError(f"ONNX export supports the heads tokens and values, not {config.head.kind}")
    model = model.cpu().eval()
    model.compute_dtype = torch.float32
    step = _Step(model, masked, answers)
    names, results = step.names()
    B, L = 2, config.seq_len
    state = model.initial_state(B)
    example = {
        "inputs": torch.ones(B, L, dtype=torch.int64)
        if config.inputs == "tokens"
        else torch.ones(B, L, config.input_width),
        "puzzle_ids": torch.zeros(B, dtype=torch.int64),
        "mask": torch.ones(B, L, dtype=torch.bool),
        "z": state.z.contiguous(),
        "y": None if state.y is None else state.y.contiguous(),
    }
    quiet = warnings.catch_warnings()
    file: Any = BytesIO()  # torch takes streams, which its annotations leave out
    with torch.no_grad(), ops.use_backend("reference"), quiet:
        # The tracing exporter takes a second; the other one takes a minute and needs another package.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            step, tuple(example[name] for name in names), file, input_names=names, output_names=results,
            dynamic_axes={name: {0: "B"} for name in names + results}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def _looped(step: Any, model: TRMModel, max_steps: int) -> Any:
    """A loop over supervision steps whose body is the graph of a step. Rows that have halted no longer change."""
    onnx = _onnx()
    h, T = onnx.helper, onnx.TensorProto
    config, graph = model.config, step.graph
    rule = halting_rule(config.halting, config.q_threshold)
    if not isinstance(rule, RowHalting):
        raise UserError(f"the ONNX loop cannot halt by model.halting: {config.halting}; use --part step")
    vectors = model.first_vectors()
    states = {name: len(vector) for name, vector in vectors.items()}
    head = config.head
    width = [head.width] if isinstance(head, ValuesConfig) else []
    tokens = not width
    kinds: dict[str, tuple[int, list[Any]]] = {
        **{name: (T.FLOAT, ["B", config.total_tokens, width]) for name, width in states.items()},
        "solution": (T.INT64 if tokens else T.FLOAT, ["B", config.seq_len, *width]),
        "confidence": (T.FLOAT, ["B"]),
        "steps": (T.INT64, ["B"]),
        "converged": (T.BOOL, ["B"]),
        "running": (T.BOOL, ["B"]),
    }
    constants = {
        **{f"first_{name}": vector.reshape(1, 1, -1).numpy() for name, vector in vectors.items()},
        "axes_state": _ints(1, 2), "axes_positions": _ints(*range(1, len(kinds["solution"][1]))),
        "first": _ints(0), "max_steps": torch.tensor(max_steps).numpy(),
        "true": torch.tensor(True).numpy(), "threshold": torch.tensor(rule.logit).numpy(),
        **{f"tail_{name}": _ints(*shape[1:]) for name, (_, shape) in kinds.items() if len(shape) > 1},
    }  # fmt: skip

    # The initial values.
    initial = [
        h.make_node("Shape", ["inputs"], ["whole_shape"]),
        h.make_node("Gather", ["whole_shape", "first"], ["B1"]),
    ]
    for name, (kind, shape) in kinds.items():
        sizes = "B1"
        if len(shape) > 1:
            sizes = f"shape_{name}"
            initial.append(h.make_node("Concat", ["B1", f"tail_{name}"], [sizes], axis=0))
        if name in states:
            initial.append(h.make_node("Expand", [f"first_{name}", sizes], [f"start_{name}"]))
        else:
            fill = h.make_tensor("value", kind, [1], [int(name == "running")])
            initial.append(h.make_node("ConstantOfShape", [sizes], [f"start_{name}"], value=fill))

    # One iteration: a step, whose results replace those of running rows only. The body cannot reuse names of the outer
    # graph.
    current = {name: name if name in states else f"now_{name}" for name in kinds}
    body = [
        *graph.node,
        h.make_node("Unsqueeze", ["now_running", "axes_state"], ["running_state"]),
        h.make_node("Unsqueeze", ["now_running", "axes_positions"], ["running_positions"]),
        h.make_node("Sigmoid", ["q"], ["new_confidence"]),
        h.make_node("Greater", ["q", "threshold"], ["above_threshold"]),
        h.make_node("And", ["now_running", "above_threshold"], ["halts"]),
        h.make_node("Cast", ["now_running"], ["running_count"], to=T.INT64),
        *(h.make_node("Where", ["running_state", f"next_{n}", n], [f"next_kept_{n}"]) for n in states),
        h.make_node("Where", ["running_positions", "answers", "now_solution"], ["next_kept_solution"]),
        h.make_node("Where", ["now_running", "new_confidence", "now_confidence"], ["next_kept_confidence"]),
        h.make_node("Add", ["now_steps", "running_count"], ["next_kept_steps"]),
        h.make_node("Or", ["now_converged", "halts"], ["next_kept_converged"]),
        h.make_node("Not", ["above_threshold"], ["below_threshold"]),
        h.make_node("And", ["now_running", "below_threshold"], ["next_kept_running"]),
        h.make_node("Cast", ["next_kept_running"], ["running_counts"], to=T.INT64),
        h.make_node("ReduceMax", ["running_counts"], ["any_running"], keepdims=0),
        h.make_node("Cast", ["any_running"], ["more"], to=T.BOOL),
    ]
    info = h.make_tensor_value_info
    iteration = h.make_graph(
        body,
        "supervision_step",
        [
            info("iteration", T.INT64, []),
            info("continue", T.BOOL, []),
            *(info(current[n], *kind) for n, kind in kinds.items()),
        ],
        [info("more", T.BOOL, []), *(info(f"next_kept_{n}", *kind) for n, kind in kinds.items())],
    )
    ends = [f"end_{n}" if n in states or n == "running" else n for n in kinds]
    loop = h.make_node("Loop", ["max_steps", "true", *(f"start_{n}" for n in kinds)], ends, body=iteration)
    whole = h.make_graph(
        [*initial, loop],
        "solve",
        [value for value in graph.input if value.name not in states],
        [info(n, *kinds[n]) for n in ("solution", "confidence", "steps", "converged")],
        initializer=[*graph.initializer, *(onnx.numpy_helper.from_array(v, n) for n, v in constants.items())],
    )
    return h.make_model(whole, opset_imports=step.opset_import, ir_version=step.ir_version)


def _ints(*values: int) -> Any:
    return torch.tensor(values, dtype=torch.int64).numpy()


def _write(model: Any, path: Path) -> None:
    onnx = _onnx()
    onnx.checker.check_model(model, full_check=True)
    make_folder(path.parent)
    with new_file(path) as new:
        onnx.save(model, str(new))
