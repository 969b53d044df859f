"""The depth curriculum: stages of a run in which recursion is shallower than the model's own (arXiv 2511.08653)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from trm_fast.validation import Section, explain


class Stage(Section):
    """``until`` a step (the last of the stage) recursion is no deeper than this."""

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
    stages: list[Stage] = []
    for number, entry in enumerate(value, 1):
        try:
            stages.append(entry if isinstance(entry, Stage) else Stage.model_validate(entry))
        except ValidationError as error:
            raise ValueError(f"stage {number}: {explain(error, Stage, '')}") from None
        if not stages[-1].depth():
            raise ValueError(f"stage {number} changes nothing: it has {', '.join(list(Stage.model_fields)[1:])}")
        if number > 1 and stages[-1].until <= stages[-2].until:
            raise ValueError(f"stage {number} ends at step {stages[-1].until}, not behind step {stages[-2].until}")
    return tuple(stages)


Stages = Annotated[tuple[Stage, ...], BeforeValidator(_stages)]
