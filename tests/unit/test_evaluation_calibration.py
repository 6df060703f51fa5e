"""Calibration: faults are named by their kind, calibrated models raise no concern, and the error has an honest interval."""

import math

import numpy as np
import pytest

from mlworkbench.evaluation.calibration import (
    ClassCalibration,
    _concerns,
    calibration_section,
    class_calibration,
    cox_recalibration,
)
from mlworkbench.evaluation.families import calibration_interval
from mlworkbench.evaluation.metrics import metric_table
from mlworkbench.evaluation.rows import Outcome
from mlworkbench.evaluation.sections import Case


def odds_of(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def shares(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


FAULTS = {
    "honest": lambda p: p, "too sure": lambda p: shares(2 * odds_of(p)), "too timid": lambda p: shares(0.5 * odds_of(p)),
    "too high": lambda p: shares(odds_of(p) + 0.6), "too low": lambda p: shares(odds_of(p) - 0.6),
}


def case_of(kind: str, rows: int, seed: int, share: float = 0.4) -> Case:
    """Rows whose chance is known, and a model that tells it in some way."""
    random = np.random.default_rng(seed)
    chance = shares(random.normal(math.log(share / (1 - share)), 1.3, rows))
    truth, said = (random.random(rows) < chance).astype(int), FAULTS[kind](chance)
    outcome = Outcome("binary", truth, (said > 0.5).astype(int), ("no", "yes"), 1, np.stack([1 - said, said], axis=1))
    return Case(None, None, truth, outcome)


@pytest.mark.parametrize("kind", [k for k in FAULTS if k != "honest"])
def test_each_fault_is_named_by_its_kind(kind):
    section = calibration_section(case_of(kind, 3000, 0))
    assert len(section.concerns) == 1 and f"they are {kind}" in section.concerns[0] and "'yes'" in section.concerns[0]
    assert section.facts == {"off": ["yes"]} and section.findings["calibration.p_value"] < 0.001


@pytest.mark.parametrize(("rows", "share"), [(200, 0.4), (3000, 0.4), (3000, 0.03)])
def test_calibrated_models_raise_no_concern(rows, share, size, measured):
    draws = size("calibration_null_draws")
    sections = [calibration_section(case_of("honest", rows, seed, share)) for seed in range(draws)]
    alarms = sum(bool(s.concerns) for s in sections) / draws
    significant = sum(s.findings["calibration.p_value"] < 0.05 for s in sections) / draws
    measured(draws=draws, false_alarms=f"{alarms:.1%}", below_5_percent=f"{significant:.1%}")
    assert alarms <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / draws)
    assert significant <= 0.06 + 3 * math.sqrt(0.05 * 0.95 / draws)


def test_a_sure_but_tiny_gap_is_no_concern():
    random = np.random.default_rng(0)
    chance = random.uniform(0.2, 0.8, 400_000)
    truth = (random.random(400_000) < chance).astype(int)
    said = chance + 0.005
    outcome = Outcome("binary", truth, truth, ("no", "yes"), 1, np.stack([1 - said, said], axis=1))
    section = calibration_section(Case(None, None, truth, outcome))
    assert section.findings["calibration.p_value"] < 0.001 and section.concerns == ()


def test_the_class_that_is_off_is_named_among_several():
    random = np.random.default_rng(0)
    table = random.dirichlet([2, 2, 2], 4000)
    truth = (random.random((4000, 1)) > table.cumsum(axis=1)).sum(axis=1)
    wrong = table.copy()
    wrong[:, 2] *= 0.5
    wrong /= wrong.sum(axis=1, keepdims=True)
    names = ("ant", "bee", "cat")
    honest, off = (Outcome("multiclass", truth, t.argmax(axis=1), names, None, t) for t in (table, wrong))
    assert calibration_section(Case(None, None, truth, honest)).concerns == ()
    section = calibration_section(Case(None, None, truth, off))
    assert "'cat'" in section.concerns[0] and 'calibration("cat").slope' in section.findings


def test_several_labels_are_looked_at_one_by_one():
    random = np.random.default_rng(1)
    chance = random.uniform(0.05, 0.95, (3000, 2))
    truth = (random.random(chance.shape) < chance).astype(int)
    said = chance.copy()
    said[:, 1] = FAULTS["too sure"](said[:, 1])
    outcome = Outcome("multilabel", truth, truth, ((0, 1),) * 2, None, said, True, ("news", "sport"))
    assert calibration_section(Case(None, None, truth, outcome)).facts == {"off": ["sport"]}


def test_few_rows_and_one_class_say_nothing():
    section = calibration_section(case_of("too sure", 12, 0))
    assert math.isnan(section.findings["calibration.p_value"]) and section.concerns == ()
    assert "not enough rows to say" in section.evidence[0].table["verdict"].tolist()
    bare = Outcome("binary", np.array([0, 1]), np.array([0, 1]), ("no", "yes"), 1)
    assert calibration_section(Case(None, None, None, bare)).findings == {}


def test_coxs_regression_gives_back_the_slope_and_intercept_that_were_planted():
    random = np.random.default_rng(0)
    chance = shares(random.normal(size=50_000))
    true = random.random(50_000) < chance
    slope, intercept, p = cox_recalibration(shares(2 * odds_of(chance) + 1), true.astype(float))
    assert (slope, intercept) == (pytest.approx(0.5, abs=0.03), pytest.approx(-0.5, abs=0.03)) and p < 1e-6
    assert cox_recalibration(chance, true.astype(float))[2] > 0.001


def test_the_concern_counts_the_other_classes_in_plain_words():
    off = [ClassCalibration(name, 100, 0.5, 0.3, 0.2, 0.1 + i / 100, 0.9) for i, name in enumerate("abc")]
    assert "So are" not in _concerns(off[:1])[0]
    assert "So are those of one other class. " in _concerns(off[:2])[0]
    assert "So are those of 2 other classes. " in _concerns(off)[0] and "of 'c' are off" in _concerns(off)[0]


def test_probabilities_of_zero_and_one_do_no_harm():
    random = np.random.default_rng(0)
    said = random.integers(0, 2, 500).astype(np.float32)
    found = class_calibration(said, random.random(500) < 0.5, "yes")
    assert found.p_value < 0.001 and found.slope < 0.2 and math.isfinite(found.slope)


@pytest.mark.parametrize("kind", ["honest", "too sure", "too high"])
def test_the_interval_of_the_calibration_error_holds_the_truth(kind, size, measured):
    draws = size("interval_coverage_draws")
    truth = 0.0 if kind == "honest" else class_calibration(*_large(kind), "yes").error
    covered = 0
    for seed in range(draws):
        low, high = calibration_interval(case_of(kind, 800, seed + 1).outcome, seed=seed, draws=400)
        covered += low <= truth <= high
    measured(draws=draws, covered=f"{covered / draws:.1%}")
    assert covered / draws >= 0.93 - 3 * math.sqrt(0.05 * 0.95 / draws)  # its upper end is a little too wide by design


def _large(kind: str) -> tuple[np.ndarray, np.ndarray]:
    outcome = case_of(kind, 400_000, 0).outcome
    return outcome.positive_scores, outcome.truth == 1


def test_the_value_lies_within_its_interval_for_a_calibrated_model():
    row = metric_table(case_of("honest", 500, 3).outcome, resamples=50).set_index("metric").loc["calibration_error"]
    assert row["low"] == 0 and row["low"] <= row["value"] <= row["high"] < 0.15
