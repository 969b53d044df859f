"""The values that a sweep gives a key, and Optuna's choice among them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trm_fast.errors import UserError, shown
from trm_fast.training.read_config import parse_value

Space = dict[str, list[Any]]
"""Values by key. A single text ``LOW..HIGH`` is a range."""

LOG_RATIO = 10
"""A range whose bounds differ by at least this factor is searched on a log scale."""


def parse_values(text: str) -> tuple[str, list[Any]]:
    """Parses a key with its values, which are YAML, or with a range.

    Raises:
        UserError: the text does not have this form.

    Examples:
        >>> parse_values("training.learning_rate=1e-3,3e-3"), parse_values("model.hidden_size=32..128")
        (('training.learning_rate', [0.001, 0.003]), ('model.hidden_size', ['32..128']))
    """
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise UserError(
            f"--vary takes section.key=value,value, such as training.batch_size=16,32, not {shown(text)}",
            usage_error=True,
        )
    parsed = parse_value(f"[{values}]", f"--vary {text}")
    return key.strip(), parsed


def parse_range(values: Sequence[Any], key: str) -> tuple[float, float] | None:
    """The bounds of a range, integers or floats, or None if ``values`` are single values.

    Raises:
        UserError: the lower bound is not below the upper one.

    Examples:
        >>> parse_range(["32..128"], "model.hidden_size"), parse_range([32, 128], "model.hidden_size")
        ((32, 128), None)
    """
    match = re.fullmatch(r"(\S+?)\.\.(\S+)", values[0]) if len(values) == 1 and isinstance(values[0], str) else None
    if match is None:
        return None
    lower, upper = (parse_value(end, f"--vary {key}") for end in match.groups())
    if not isinstance(lower, int | float) or not isinstance(upper, int | float) or lower >= upper:
        raise UserError(f"--vary {key}={values[0]}: a range is LOW..HIGH, two numbers", usage_error=True)
    return lower, upper


def suggest(space: Space, previous: Sequence[tuple[Mapping[str, Any], float | None]]) -> dict[str, Any]:
    """Optuna's next settings, by its tree-structured Parzen estimator. They depend only on the arguments, so that
    an interrupted search continues as if it had not been interrupted.

    Args:
        space: values or a range by key.
        previous: settings of the earlier trials, with their results; None if all runs diverged.

    Raises:
        UserError: Optuna is not installed, or a range is not valid.
    """
    try:
        import optuna
    except ImportError:
        raise UserError('--optuna needs the package optuna: pip install "trm-fast[sweep]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, Any] = {}
    for key, values in space.items():
        if (ends := parse_range(values, key)) is None:
            distributions[key] = optuna.distributions.CategoricalDistribution([json.dumps(value) for value in values])
            continue
        log = ends[0] > 0 and ends[1] / ends[0] >= LOG_RATIO
        whole = all(isinstance(end, int) for end in ends)
        kind: Any = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
        distributions[key] = kind(*ends, log=log)
    categorical = {key for key, values in space.items() if parse_range(values, key) is None}
    sampler = optuna.samplers.TPESampler(seed=len(previous))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    trial_state = optuna.trial.TrialState
    for settings, value in previous:
        params = {key: json.dumps(settings[key]) if key in categorical else settings[key] for key in space}
        state = trial_state.PRUNED if value is None else trial_state.COMPLETE
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value, state=state))
    params = study.ask(distributions).params
    return {key: json.loads(params[key]) if key in categorical else params[key] for key in space}
