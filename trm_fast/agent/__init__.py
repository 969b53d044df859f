"""Trained models as tools for other programs and for LLM agents."""

from trm_fast.agent.tool import ReasoningTool, run_task

__all__ = ["ReasoningTool", "run_task"]
