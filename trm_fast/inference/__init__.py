"""Inference: solves puzzles with trained models, and evaluates models."""

from trm_fast.inference.ensemble import Ensemble
from trm_fast.inference.evaluate import Evaluation, evaluate, score, wilson_interval
from trm_fast.inference.solver import Answer, Solver, Step
from trm_fast.inference.tries import Solved

__all__ = ["Answer", "Ensemble", "Evaluation", "Solved", "Solver", "Step", "evaluate", "score", "wilson_interval"]
