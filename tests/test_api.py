"""``TRM.train_step`` learns; in ``TRM.solve``, halted rows leave the batch without changing the other rows' answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference.steps import run_steps
from trm_fast.models import supervision_loss
from trm_fast.training.optimizers import AdamATan2

from .models.small import VARIANTS, config, model, tokens

B = 9


def alone(
    trm: TRM, row: Tensor, max_steps: int, halt: bool = True, min_steps: int = 1, accept: Any = None
) -> dict[str, Any]:
    """Solves one row alone, one supervision step at a time: what ``solve`` must return for it."""
    state, steps, answers = trm.initial_state(1), 0, []
    converged = False
    while steps < max_steps and not converged:
        state, logits, q = trm(row[None], state, trm.puzzle_rows(None, 1))
        steps += 1
        answers.append(logits.argmax(-1)[0])
        confident = q.item() > 0 and (accept is None or bool(accept(row[None], answers[-1][None])))
        converged = halt and steps >= min_steps and confident
    return {"solution": answers[-1], "confidence": q.sigmoid().item(), "steps": steps, "converged": converged}


def undecided(seed: int, name: str) -> TRM:
    """A model whose rows halt at different steps: the bias of its Q head lies between their halting logits."""
    trm = model(seed, **VARIANTS[name]).eval()
    trajectory = trm.solve(tokens(B), halt=False, return_trajectory=True)["trajectory"]
    logits = torch.cat([t["confidence"].logit() for t in trajectory]).sort().values[B:-B]
    widest = logits.diff().argmax()  # the widest gap, so that rounding does not decide which rows halt
    with torch.no_grad():
        trm.q_head.bias -= (logits[widest] + logits[widest + 1]) / 2
    return trm


def odd(inputs: Tensor, answers: Tensor) -> Tensor:
    return (inputs.sum(-1) + answers.sum(-1)) % 2 == 1


@pytest.mark.parametrize("name", ["mixer", "attention", "single", "prefix"])
@pytest.mark.parametrize(
    "options",
    [{}, {"halt": False}, {"min_steps": 3}, {"accept": odd}, {"max_steps": 2}, {"max_steps": 9}],
    ids=lambda options: str({name: getattr(value, "__name__", value) for name, value in options.items()}),
)
def test_a_batch_gives_the_answers_of_single_rows(name: str, options: dict[str, Any]) -> None:
    trm, data = undecided(3, name), tokens(B)
    got = trm.solve(data, **options)
    most = options.pop("max_steps", trm.config.max_supervision_steps)
    with torch.no_grad():
        want = [alone(trm, row, most, **options) for row in data]
    assert got["steps"].tolist() == [w["steps"] for w in want]
    assert got["converged"].tolist() == [w["converged"] for w in want]
    assert got["solution"].tolist() == [w["solution"].tolist() for w in want]
    assert got["confidence"].tolist() == pytest.approx([w["confidence"] for w in want], rel=1e-4)
    if options.get("halt", True):
        assert len(set(got["steps"].tolist())) > 1, "all rows halt at the same step, so the test shows nothing"


def test_trajectory() -> None:
    trm, data = undecided(3, "mixer"), tokens(B)
    result = trm.solve(data, return_trajectory=True)
    trajectory = result["trajectory"]
    assert [t["step"] for t in trajectory] == list(range(1, int(result["steps"].max()) + 1))
    assert torch.equal(trajectory[-1]["solution"], result["solution"])
    for k, t in enumerate(trajectory, 1):
        short = trm.solve(data, max_steps=k)
        assert torch.equal(t["solution"], short["solution"])
        torch.testing.assert_close(t["confidence"], short["confidence"])
    assert "trajectory" not in trm.solve(data)


def test_solving_changes_no_weight_and_records_no_gradient() -> None:
    trm = model(3).eval()
    original = {n: t.clone() for n, t in trm.state_dict().items()}
    assert not trm.solve(tokens(B))["confidence"].requires_grad
    assert all(torch.equal(t, original[n]) for n, t in trm.state_dict().items())


@pytest.mark.parametrize("name", ["mixer", "single", "prefix"])
def test_train_step_learns(name: str) -> None:
    torch.manual_seed(0)
    trm, data = TRM(config(hidden_size=24, **VARIANTS[name])), tokens(8)
    optimizer = AdamATan2(trm.parameters(), 0.01, weight_decay=0.0)
    results = [trm.train_step(data, 6 - data, optimizer) for _ in range(60)]
    assert results[-1]["loss"] < 0.5 * results[0]["loss"]
    assert results[-1]["accuracy"] > 0.9 > results[0]["accuracy"]
    # The Q head learns as well: at first no row halts, later the rows with right answers do.
    assert results[0]["steps"] == 4
    assert min(r["steps"] for r in results) < 4


def test_train_step_of_a_model_with_further_arrays() -> None:
    torch.manual_seed(0)
    trm, data = TRM(config(hidden_size=24, roles=3, features=2)), tokens(8)
    extra = {"roles": data % 3, "features": torch.randn(8, 6, 2), "mask": torch.ones(8, 6, dtype=torch.bool)}
    optimizer = AdamATan2(trm.parameters(), 0.01, weight_decay=0.0)
    losses = [trm.train_step(data, data % 3 + 1, optimizer, extra=extra)["loss"] for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    for call in (lambda arrays: trm.train_step(data, data, extra=arrays), lambda arrays: trm.solve(data, extra=arrays)):
        with pytest.raises(UserError, match="this model also reads roles, features: give them by name, as extra="):
            call(None)
        with pytest.raises(UserError, match="this model also reads features: "):
            call({"roles": extra["roles"]})


def test_the_arrays_of_a_head_are_named() -> None:
    head = {"kind": "selection", "num_words": 3, "stems": 2}
    trm = TRM(config(mixing="attention", inputs="bags", head=head, roles=3))
    with pytest.raises(UserError, match="reads roles, tool_places, field_places, stems, field_tools, shares: "):
        trm.solve(tokens(2)[..., None])


def test_train_step_takes_one_optimizer_step_per_supervision_step() -> None:
    """Compares with deep supervision written out: the carry continues, and the weights change between the steps."""
    trm, data = model(1), tokens(4)
    twin = TRM(trm.config)
    twin.load_state_dict(trm.state_dict())
    result = trm.train_step(data, data)
    optimizer, state = AdamATan2(twin.parameters()), twin.initial_state(4)
    for _ in range(result["steps"]):
        optimizer.zero_grad()
        state, logits, q = twin(data, state)
        loss = supervision_loss(logits, q, data)
        (loss.total / 4).backward()
        optimizer.step()
    assert result["steps"] == 4 or (q > 0).all()
    assert result["loss"] == loss.total.item() / 4
    assert result["accuracy"] == (logits.argmax(-1) == data).float().mean().item()
    assert result["exact_accuracy"] == (logits.argmax(-1) == data).all(-1).float().mean().item()
    for p, q in zip(trm.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_train_step_stops_when_every_row_halts_and_keeps_its_optimizer() -> None:
    trm, data = model(), tokens(4)
    with torch.no_grad():
        trm.q_head.weight.zero_()
        trm.q_head.bias.fill_(9.0)
    assert trm.train_step(data, data)["steps"] == 1
    assert trm.train_step(data, data)["steps"] == 1
    assert trm._optimizer is not None
    assert trm._optimizer.step_count.item() == 2


def test_a_batch_halts_when_its_mean_confidence_is_high() -> None:
    trm = model(halting="batch")
    with torch.no_grad():
        trm.q_head.weight.normal_().neg_()
        trm.q_head.bias.fill_(0.0)
        means, state = [], trm.initial_state(B)
        for _ in range(trm.config.max_supervision_steps):
            out = trm(tokens(B), state)
            means.append(float(out.q.sigmoid().mean()))
            state = out.state
    threshold = (means[0] + max(means[1:])) / 2
    assert means[0] < threshold, "the first step must not have the highest confidence"
    trm.config = trm.config.model_copy(update={"q_threshold": threshold})
    expected = 1 + next(i for i, mean in enumerate(means) if mean > threshold)
    got = trm.solve(tokens(B))
    assert set(got["steps"].tolist()) == {expected}
    assert bool(got["converged"].all())
    # In batches of two no row enters a batch that has started, so all rows of a batch have run as many steps.
    for now in run_steps(trm, tokens(B), 4, batch_size=2):
        assert len(now.rows) <= 2
        assert len(set(now.steps.tolist())) == 1
        assert len(set(now.halted.tolist())) == 1
