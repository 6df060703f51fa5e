"""Realised performance: when a loss is sure, given that the evaluation was an estimate, too."""

import math

import numpy as np
import pytest

from mlworkbench.evaluation.metrics import metric_table
from mlworkbench.evaluation.outcomes import Outcome, read_outcome
from mlworkbench.monitoring.performance import Performance, performance_sentence, realised


def draw(random: np.random.Generator, rows: int, noise: float = 1.0) -> Outcome:
    truth = random.integers(0, 2, rows)
    p = 1 / (1 + np.exp(-(2.0 * (truth - 0.5) + random.normal(0, noise, rows))))
    shares = np.c_[1 - p, p]
    return read_outcome("binary", truth, (p > 0.5).astype(int), classes=[0, 1], probabilities=shares)


def evaluated(outcome: Outcome) -> dict:
    return metric_table(outcome, resamples=100).set_index("metric").to_dict("index")


def test_the_same_world_is_not_surely_worse_than_a_small_lucky_evaluation():
    """At most 5 % by intention: more than 10 of 100 would be by chance in 1 % of all such counts."""
    seeds, loud = 100, 0
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        loud += realised(draw(random, 1500), evaluated(draw(random, 300)), resamples=100).worse
    assert loud <= 10


@pytest.mark.parametrize("rows", [300, 3000])
def test_a_real_loss_is_sure_also_beside_a_small_evaluation(rows):
    random = np.random.default_rng(0)
    found = realised(draw(random, 3000, noise=2.5), evaluated(draw(random, rows)))
    assert found.worse and found.alert
    assert f"({found.reference_low:.3f} to {found.reference_high:.3f}) in the evaluation" in performance_sentence(found, 0.05)


@pytest.mark.parametrize(("value", "low", "high", "worse"), [
    (0.80, 0.77, 0.83, True), (0.86, 0.83, 0.89, False), (0.95, 0.92, 0.98, False), (0.90, 0.87, 0.93, False),
    (0.84, 0.81, 0.87, True), (0.84, 0.50, 0.88, True), (0.84, math.nan, math.nan, False),
])  # fmt: skip
def test_half_widths_that_face_each_other_are_added_in_quadrature(value, low, high, worse):
    """0.90 (0.86 to 0.99) promised: 0.04 faces what is now 0.03, together 0.05."""
    found = Performance(500, 0, "roc_auc", 0.90, value, low, high, 0.90 - value, reference_low=0.86, reference_high=0.99)
    assert found.worse is worse


def test_an_error_is_worse_when_it_is_higher_and_without_an_interval_a_promise_is_exact():
    sides = {"reference_low": 8.0, "reference_high": 14.0}
    assert not Performance(500, 0, "rmse", 10.0, 14.0, 11.0, 19.0, 0.4, **sides).worse  # 4 against hypot(3, 4)
    assert Performance(500, 0, "rmse", 10.0, 15.5, 12.5, 19.0, 0.55, **sides).worse
    assert Performance(500, 0, "rmse", 10.0, 14.0, 11.0, 19.0, 0.4).worse
