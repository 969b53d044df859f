"""Training: deep supervision with a carry, one optimizer step per supervision step, and exact resume.

``trainer`` runs ``step``. The step trains on the examples in the ``carry``; the ``pool`` refills halted slots with
examples from the ``feed``. Optimizers, callbacks, schedules and halting rules (``trm_fast.models.halting``) are each a
file or function that registers itself under a name.
"""

from trm_fast.training.batch import Batch
from trm_fast.training.callbacks import Callback
from trm_fast.training.carry import Carry
from trm_fast.training.config import RunConfig, TrainingConfig
from trm_fast.training.read_config import (
    apply_settings,
    make_config,
    parse_section,
    preset_config,
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
    "preset_config",
    "preset_names",
    "read_preset",
    "read_yaml",
    "transfer",
]
