"""Training: deep supervision with a carry, one optimizer step a supervision step, exact resume.

``trainer`` runs ``step``, which works on a ``carry`` that a ``pool`` refills with ``batch``es of a ``feed``. What
people change has a file of its own that registers it by name: ``optimizers/``, ``callbacks/``, ``schedule``, and the
halting rules in ``trm_fast.models.halting``.
"""

from trm_fast.training.batch import Batch
from trm_fast.training.callbacks import Callback
from trm_fast.training.carry import Carry
from trm_fast.training.config import RunConfig, TrainingConfig
from trm_fast.training.read_config import (
    apply_settings,
    make_config,
    parse_section,
    preset_names,
    read_preset,
    read_yaml,
)
from trm_fast.training.step import TrainStep
from trm_fast.training.trainer import Trainer
from trm_fast.training.transfer import fine_tuning, transfer

__all__ = [
    "Batch",
    "Callback",
    "Carry",
    "RunConfig",
    "TrainStep",
    "Trainer",
    "TrainingConfig",
    "apply_settings",
    "fine_tuning",
    "make_config",
    "parse_section",
    "preset_names",
    "read_preset",
    "read_yaml",
    "transfer",
]
