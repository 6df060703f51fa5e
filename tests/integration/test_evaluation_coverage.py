"""Do 95 % intervals hold the truth 95 times in 100?"""

import math

import numpy as np
import pytest

from mlworkbench.evaluation.metrics import metric_table, metric_values
from mlworkbench.evaluation.outcomes import Outcome

WATCHED = {"binary": ("roc_auc", "accuracy", "f1", "log_loss", "brier"), "regression": ("rmse", "mae", "r2")}


def draw(task: str, rows: int, seed: int) -> Outcome:
    random = np.random.default_rng(seed)
    if task == "regression":
        truth = random.normal(50, 10, rows)
        return Outcome(task, truth, truth + random.normal(0, 4, rows))
    truth = random.integers(0, 2, rows)
    raw = random.normal(size=rows) + 1.2 * truth - 0.6
    chance = 1 / (1 + np.exp(-raw))
    return Outcome(task, truth, (chance > 0.5).astype(int), ("no", "yes"), 1, np.stack([1 - chance, chance], axis=1))


@pytest.mark.parametrize("task", WATCHED)
def test_intervals_cover_the_truth_about_as_often_as_they_say(task, size, measured):
    draws = size("interval_coverage_draws")
    truth = metric_values(draw(task, 400_000, seed=0))
    covered = dict.fromkeys(WATCHED[task], 0)
    for seed in range(draws):
        table = metric_table(draw(task, 400, 1000 + seed), resamples=400, seed=seed).set_index("metric")
        for name in covered:
            covered[name] += bool(table.loc[name, "low"] <= truth[name] <= table.loc[name, "high"])
    chance = 3 * math.sqrt(0.95 * 0.05 / draws) if draws < 1000 else 0.01  # what a small simulation cannot tell
    measured(draws=draws, **{name: f"{times / draws:.1%}" for name, times in covered.items()})
    for name, times in covered.items():
        assert 0.93 - chance <= times / draws <= 0.97 + chance, (name, times / draws)
