"""``train_step`` learns; ``solve`` lets halted rows go without a change for the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.inference.steps import run_steps
from trm_fast.models import supervision_loss
from trm_fast.training.optimizers import AdamATan2

from .models.small import VARIANTS, config, model, tokens

B = 9


def alone(
    made: TRM, row: Tensor, max_steps: int, halt: bool = True, min_steps: int = 1, accept: Any = None
) -> dict[str, Any]:
    """One row, a supervision step at a time."""
    state, steps, answers = made.initial_state(1), 0, []
    converged = False
    while steps < max_steps and not converged:
        state, logits, q = made(row[None], state, made.puzzle_rows(None, 1))
        steps += 1
        answers.append(logits.argmax(-1)[0])
        sure = q.item() > 0 and (accept is None or bool(accept(row[None], answers[-1][None])))
        converged = halt and steps >= min_steps and sure
    return {"solution": answers[-1], "confidence": q.sigmoid().item(), "steps": steps, "converged": converged}


def undecided(seed: int, name: str) -> TRM:
    """A model whose rows halt at different steps: its Q head is centred on what it says of them."""
    made = model(seed, **VARIANTS[name]).eval()
    trajectory = made.solve(tokens(B), halt=False, return_trajectory=True)["trajectory"]
    said = torch.cat([t["confidence"].logit() for t in trajectory]).sort().values[B:-B]
    widest = said.diff().argmax()  # rounding must not decide who halts
    with torch.no_grad():
        made.q_head.bias -= (said[widest] + said[widest + 1]) / 2
    return made


def odd(inputs: Tensor, answers: Tensor) -> Tensor:
    return (inputs.sum(-1) + answers.sum(-1)) % 2 == 1


@pytest.mark.parametrize("name", ["mixer", "attention", "single", "prefix"])
@pytest.mark.parametrize(
    "options",
    [{}, {"halt": False}, {"min_steps": 3}, {"accept": odd}, {"max_steps": 2}, {"max_steps": 9}],
    ids=lambda options: str({name: getattr(value, "__name__", value) for name, value in options.items()}),
)
def test_a_batch_answers_as_each_row_alone(name: str, options: dict[str, Any]) -> None:
    made, data = undecided(3, name), tokens(B)
    got = made.solve(data, **options)
    most = options.pop("max_steps", made.config.max_supervision_steps)
    with torch.no_grad():
        want = [alone(made, row, most, **options) for row in data]
    assert got["steps"].tolist() == [w["steps"] for w in want]
    assert got["converged"].tolist() == [w["converged"] for w in want]
    assert got["solution"].tolist() == [w["solution"].tolist() for w in want]
    assert got["confidence"].tolist() == pytest.approx([w["confidence"] for w in want], rel=1e-4)
    if options.get("halt", True):
        assert len(set(got["steps"].tolist())) > 1, "every row halts alike: the test shows nothing"


def test_trajectory() -> None:
    made, data = undecided(3, "mixer"), tokens(B)
    result = made.solve(data, return_trajectory=True)
    trajectory = result["trajectory"]
    assert [t["step"] for t in trajectory] == list(range(1, int(result["steps"].max()) + 1))
    assert torch.equal(trajectory[-1]["solution"], result["solution"])
    for k, t in enumerate(trajectory, 1):
        short = made.solve(data, max_steps=k)
        assert torch.equal(t["solution"], short["solution"])
        torch.testing.assert_close(t["confidence"], short["confidence"])
    assert "trajectory" not in made.solve(data)


def test_solving_changes_nothing_and_needs_no_gradient() -> None:
    made = model(3).eval()
    before = {n: t.clone() for n, t in made.state_dict().items()}
    assert not made.solve(tokens(B))["confidence"].requires_grad
    assert all(torch.equal(t, before[n]) for n, t in made.state_dict().items())


@pytest.mark.parametrize("name", ["mixer", "single", "prefix"])
def test_train_step_learns(name: str) -> None:
    torch.manual_seed(0)
    made, data = TRM(config(hidden_size=24, **VARIANTS[name])), tokens(8)
    optimizer = AdamATan2(made.parameters(), 0.01, weight_decay=0.0)
    results = [made.train_step(data, 6 - data, optimizer) for _ in range(60)]
    assert results[-1]["loss"] < 0.5 * results[0]["loss"]
    assert results[-1]["accuracy"] > 0.9 > results[0]["accuracy"]
    # The Q head learns, too: nothing halts at first, and in the end what is right does.
    assert results[0]["steps"] == 4
    assert min(r["steps"] for r in results) < 4


def test_train_step_is_one_optimizer_step_a_supervision_step() -> None:
    """Deep supervision written out: the carry goes on, the weights change between the steps."""
    made, data = model(1), tokens(4)
    twin = TRM(made.config)
    twin.load_state_dict(made.state_dict())
    result = made.train_step(data, data)
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
    for p, q in zip(made.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_train_step_stops_when_every_row_halts_and_keeps_its_optimizer() -> None:
    made, data = model(), tokens(4)
    with torch.no_grad():
        made.q_head.weight.zero_()
        made.q_head.bias.fill_(9.0)
    assert made.train_step(data, data)["steps"] == 1
    assert made.train_step(data, data)["steps"] == 1
    assert made._optimizer is not None
    assert made._optimizer.step_count.item() == 2


def test_rows_computed_together_halt_together_when_their_mean_is_sure() -> None:
    made = model(halting="batch")
    with torch.no_grad():
        made.q_head.weight.normal_().neg_()
        made.q_head.bias.fill_(0.0)
        said, state = [], made.initial_state(B)
        for _ in range(made.config.max_supervision_steps):
            out = made(tokens(B), state)
            said.append(float(out.q.sigmoid().mean()))
            state = out.state
    threshold = (said[0] + max(said[1:])) / 2
    assert said[0] < threshold, "the first step must not be the surest one"
    made.config = made.config.model_copy(update={"q_threshold": threshold})
    expected = 1 + next(i for i, mean in enumerate(said) if mean > threshold)
    got = made.solve(tokens(B))
    assert set(got["steps"].tolist()) == {expected}
    assert bool(got["converged"].all())
    # Two at a time: nobody enters a batch on its way, so that all of a batch have taken as many steps.
    for now in run_steps(made, tokens(B), 4, batch_size=2):
        assert len(now.rows) <= 2
        assert len(set(now.steps.tolist())) == 1
        assert len(set(now.halted.tolist())) == 1
