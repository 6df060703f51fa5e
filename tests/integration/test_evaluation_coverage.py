"""Do 95 % intervals hold the truth 95 times in 100?"""

import math

import numpy as np
import pytest

from mlworkbench.evaluation.metrics import metric_table, metric_values
from mlworkbench.evaluation.outcomes import Outcome

DRAWN = ("binary", "multiclass", "multilabel", "regression")


def draw(task: str, rows: int, seed: int) -> Outcome:
    """A sample of a world in which four in ten are positive, or four classes are unequally common."""
    random = np.random.default_rng(seed)
    if task == "regression":
        truth = random.normal(50, 10, rows)
        return Outcome(task, truth, truth + random.normal(0, 4, rows))
    if task == "multilabel":
        truth = (random.random((rows, 3)) < [0.5, 0.4, 0.3]).astype(int)
        chance = 1 / (1 + np.exp(-(random.normal(size=truth.shape) + 1.4 * truth - 0.9)))
        return Outcome(task, truth, (chance > 0.5).astype(int), ((0, 1),) * 3, None, chance, True, tuple("abc"))
    if task == "multiclass":
        truth = random.choice(4, rows, p=[0.4, 0.25, 0.2, 0.15])
        raw = random.normal(size=(rows, 4)) + 1.2 * np.eye(4)[truth]
        shares = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
        return Outcome(task, truth, shares.argmax(axis=1), ("ant", "bee", "cat", "dog"), None, shares)
    truth = (random.random(rows) < 0.4).astype(int)
    chance = 1 / (1 + np.exp(-(random.normal(size=rows) + 1.2 * truth - 0.8)))
    return Outcome(task, truth, (chance > 0.5).astype(int), ("no", "yes"), 1, np.stack([1 - chance, chance], axis=1))


@pytest.mark.parametrize("task", DRAWN)
def test_intervals_cover_the_truth_about_as_often_as_they_say(task, size, measured):
    draws = size("interval_coverage_draws")
    truth = metric_values(draw(task, 400_000, seed=0))
    covered, resamples = dict.fromkeys(truth, 0), 1000 if draws >= 1000 else 200
    for seed in range(draws):
        table = metric_table(draw(task, 1000, 1000 + seed), resamples=resamples, seed=seed).set_index("metric")
        for name in covered:
            covered[name] += bool(table.loc[name, "low"] <= truth[name] <= table.loc[name, "high"])
    measured(draws=draws, **{name: f"{times / draws:.1%}" for name, times in covered.items()})
    chance = 3 * math.sqrt(0.95 * 0.05 / draws) if draws < 1000 else 0.0  # what a small simulation cannot tell
    for name, times in covered.items():
        wide = 0.03 if name == "calibration_error" else 0.0  # its upper end is a little too wide by design
        assert 0.93 - chance <= times / draws <= 0.97 + chance + wide, (name, times / draws)
