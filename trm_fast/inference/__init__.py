"""Solving with trained models."""

from trm_fast.inference.evaluate import Evaluation, evaluate, wilson_interval
from trm_fast.inference.solver import Answer, Solver, Step

__all__ = ["Answer", "Evaluation", "Solver", "Step", "evaluate", "wilson_interval"]
