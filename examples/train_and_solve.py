"""Trains on 4x4 sudoku and solves a puzzle: about ten seconds on a laptop."""

import tempfile

from trm_fast import Solver, Trainer
from trm_fast.interchange import locate
from trm_fast.training import make_config, read_preset

with tempfile.TemporaryDirectory() as folder:
    run = f"{folder}/run"
    summary = Trainer(make_config(read_preset("sudoku-4x4"), "sudoku-4x4"), run).train()
    print(f"exact accuracy on unseen puzzles: {summary['evaluation']['exact_accuracy']:.3f}")
    trained = locate(run)
    answer = Solver(trained.model, trained.task).solve("3.......4.3...42")
    print(f"{answer.solution}, confidence {answer.confidence:.2f}, valid: {answer.valid}")
