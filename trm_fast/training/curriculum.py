"""The depth curriculum: stages of a run in which the recursion is shallower than the model's (arXiv 2511.08653)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from trm_fast.validation import Section, explain


class Stage(Section):
    """The depth of recursion up to and including step ``until``; None keeps the model's value."""

    until: int = Field(ge=1)
    T_cycles: int | None = Field(None, ge=1)
    n_latent_steps: int | None = Field(None, ge=0)
    max_supervision_steps: int | None = Field(None, ge=1)

    def depth(self) -> dict[str, int]:
        """The values of the model's configuration that this stage replaces."""
        return self.model_dump(exclude={"until"}, exclude_none=True)


def _stages(value: Any) -> Any:
    """Validates ``training.depth``.

    Raises:
        ValueError: an entry is not a stage, changes nothing, or does not end after the previous one.
    """
    if not isinstance(value, list | tuple):
        raise ValueError("it must be a list of stages, such as [{until: 2000, T_cycles: 1}]")
    stages: list[Stage] = []
    for number, entry in enumerate(value, 1):
        try:
            stages.append(entry if isinstance(entry, Stage) else Stage.model_validate(entry))
        except ValidationError as error:
            raise ValueError(f"stage {number}: {explain(error, Stage, '')}") from None
        if not stages[-1].depth():
            raise ValueError(f"stage {number} changes nothing: it has {', '.join(list(Stage.model_fields)[1:])}")
        if number > 1 and stages[-1].until <= stages[-2].until:
            raise ValueError(f"stage {number} ends at step {stages[-1].until}, not after step {stages[-2].until}")
    return tuple(stages)


Stages = Annotated[tuple[Stage, ...], BeforeValidator(_stages)]
