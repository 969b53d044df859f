"""Trained models as tools of other programs and agents."""

from trm_fast.agent.tool import ReasoningTool, run_task

__all__ = ["ReasoningTool", "run_task"]
