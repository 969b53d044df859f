"""Trains a shipped model further, on harder puzzles than it was trained on: 6x6 sudoku with 8 to 10 givens.

On the command line: ``trm-fast train --preset sudoku-6x6 --init-from sudoku-6x6 --set task.givens=[8,10] --steps 200``.
"""

import tempfile

from trm_fast import Solver, Trainer
from trm_fast.inference import evaluate
from trm_fast.interchange import locate
from trm_fast.training import apply_settings, fine_tuning, make_config, read_preset

shipped = locate("sudoku-6x6")
harder = apply_settings(read_preset("sudoku-6x6"), ["task.givens=[8,10]", "training.steps=200"])
config = make_config(fine_tuning(harder), "fine_tuning.py")  # a gentler start than from random weights
with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(config, f"{folder}/run", init=shipped.model)
    start = evaluate(Solver(shipped.model, trainer.task), trainer.dataset.test).exact_accuracy
    trainer.train()
    end = evaluate(Solver(trainer.averaged_model(), trainer.task), trainer.dataset.test).exact_accuracy
    print(f"exact accuracy before {start:.3f}, after {end:.3f}")
