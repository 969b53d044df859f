"""The solver of a command: one model, or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trm_fast.errors import UserError

if TYPE_CHECKING:
    from trm_fast.inference import Solver
    from trm_fast.interchange.locate import Located


def make_solver(located: Located, also: Sequence[str] | None, device: str, trust_code: bool, **options: Any) -> Solver:
    """The solver of a model, with the further models of ``--also``.

    Raises:
        UserError: there is no such model, or it does not fit the task of the first.
    """
    from trm_fast.inference import Ensemble, Solver
    from trm_fast.interchange import locate

    if not also:
        return Solver(located.model, located.task, **options)
    others = []
    for reference in also:
        other = locate(reference, device=device, trust_code=trust_code)
        if other.task.name != located.task.name:
            message = f"--also {reference}: it is a model for {other.task.name}, not {located.task.name}"
            raise UserError(message, usage_error=True)
        others.append(other.model)
    return Ensemble(located.model, located.task, **options, others=tuple(others))
