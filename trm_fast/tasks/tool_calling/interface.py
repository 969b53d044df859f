"""What ``trm-fast call`` needs of a model's task, whatever kind of model it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trm_fast.tasks.base import Array, Question, Task
from trm_fast.tasks.tool_calling.conversation import Call, Conversation, Tool
from trm_fast.tasks.tool_calling.schema import problems


@dataclass(frozen=True)
class Prediction:
    """What a model would do next. ``problems``: what keeps its calls from being valid against the offered tools."""

    decision: str
    calls: tuple[Call, ...] = ()
    slots: dict[str, str | None] = field(default_factory=dict)
    reply: str = ""
    problems: tuple[str, ...] = ()

    @classmethod
    def of_calls(cls, calls: Sequence[Call], tools: Sequence[Tool], **more: Any) -> Prediction:
        said = tuple(problem for call in calls for problem in problems(call, tools))
        return cls("tool_call" if calls else "direct_answer", tuple(calls), problems=said, **more)

    def to_json(self) -> dict[str, Any]:
        return {
            "decision": self.decision,
            "calls": [call.to_json() for call in self.calls],
            "slots": self.slots,
            "reply": self.reply,
            "problems": list(self.problems),
        }


class ToolTask(Task):
    """A task whose questions are conversations. ``noun`` and the rest are those of ``Task``."""

    noun = "conversations"

    @abstractmethod
    def known_tools(self) -> tuple[Tool, ...]:
        """Tools to offer where none are named; UserError in a model that knows none by itself."""

    @abstractmethod
    def ask(self, conversation: Conversation) -> Question:
        """The question what comes next; UserError where the model can't serve it."""

    def predict(self, solver: Any, conversation: Conversation) -> tuple[Prediction, Any]:
        """What a solver of this task's model says comes next, and its answer, with ``confidence`` and ``steps``."""
        question = self.ask(conversation)
        answer = solver.solve(question)
        return self.prediction(question, answer.raw, conversation.tools), answer

    @abstractmethod
    def prediction(self, question: Question, answer: Array, tools: Sequence[Tool]) -> Prediction:
        """What an answer of the model means."""
