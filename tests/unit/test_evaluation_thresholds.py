"""The threshold of the lowest cost: found among all, honest about what it costs, and applied as it was chosen."""

import math

import numpy as np
import pytest

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.evaluation.families import label_family, read_families
from mlworkbench.evaluation.metrics import metric_table, metric_values
from mlworkbench.evaluation.rows import Outcome
from mlworkbench.evaluation.sections import Case
from mlworkbench.evaluation.thresholds import (
    apply_threshold,
    choose_threshold,
    correct_label_metrics,
    cut_points,
    honest_label_metrics,
    threshold_section,
)

COSTS = {"fp": 1.0, "fn": 5.0}


def draw(rows: int, seed: int = 0, digits: int | None = None, probable: bool = True, positive: int = 1) -> Outcome:
    random = np.random.default_rng(seed)
    truth = (random.random(rows) < 0.3).astype(int)
    raw = random.normal(size=rows) + 1.5 * truth - 1
    scores = 1 / (1 + np.exp(-raw)) if probable else raw
    scores = scores if digits is None else scores.round(digits)
    both = np.stack([1 - scores if probable else -scores, scores], axis=1)
    return Outcome("binary", truth, (both[:, 1] > (0.5 if probable else 0)).astype(int), ("no", "yes"), positive, both, probable)


def cost_at(outcome: Outcome, value: float, costs: dict[str, float]) -> float:
    """What calling from `value` on costs, written out row by row."""
    full = {"tp": 0.0, "tn": 0.0} | costs
    total = 0.0
    for truth, score in zip(outcome.truth, outcome.positive_scores, strict=True):
        called, positive = score >= value, truth == outcome.positive
        total += full[("tp" if called else "fn") if positive else ("fp" if called else "tn")]
    return total / outcome.rows


@pytest.mark.parametrize("costs", [COSTS, {"fp": 5, "fn": 1}, {"fp": 2, "fn": 3, "tp": -4, "tn": 0.5}])
@pytest.mark.parametrize("how", [{}, {"digits": 1}, {"probable": False}, {"positive": 0}])
def test_no_threshold_costs_less(costs, how):
    outcome = draw(300, **how)
    found = choose_threshold(outcome, costs, resamples=0)
    scores = outcome.positive_scores
    everything = [cost_at(outcome, t, costs) for t in [*np.unique(scores), scores.max() + 1, scores.min() - 1]]
    assert found.apparent == pytest.approx(min(everything), abs=1e-12)
    assert cost_at(outcome, found.value, costs) == pytest.approx(found.apparent, abs=1e-12)
    assert found.positive == ("no" if how.get("positive") == 0 else "yes")


def test_answers_by_the_threshold_are_those_it_was_chosen_for():
    outcome = draw(500)
    found = choose_threshold(outcome, COSTS, resamples=0)
    applied = apply_threshold(outcome, found)
    assert ((applied.predicted == 1) == (outcome.positive_scores >= found.value)).all()
    wrong = (applied.predicted != applied.truth) * np.where(applied.truth == 1, 5.0, 1.0)
    assert wrong.mean() == pytest.approx(found.apparent, abs=1e-12)
    assert (apply_threshold(outcome, 0.5).predicted == outcome.predicted).mean() > 0.99


def test_a_threshold_lies_strictly_between_two_scores_even_of_neighbouring_floats():
    low = 0.3
    high = np.nextafter(low, 1)
    thresholds, steps = cut_points(np.array([low, high, low, 1.0]), True)
    assert (thresholds[:-1] >= thresholds[1:]).all() and thresholds[0] > 1.0
    for place, value in enumerate(thresholds):
        assert ((np.array([low, high, low, 1.0]) >= value) == (steps < place)).all()


def test_calling_nobody_or_everybody_can_be_best():
    random = np.random.default_rng(0)
    truth, p = (random.random(400) < 0.05).astype(int), random.uniform(0.2, 0.6, 400)
    blind = Outcome("binary", truth, np.zeros(400, int), ("no", "yes"), 1, np.stack([1 - p, p], axis=1))
    assert not apply_threshold(blind, choose_threshold(blind, {"fp": 10, "fn": 1}, resamples=0)).predicted.any()
    assert apply_threshold(blind, choose_threshold(blind, {"fp": 1, "fn": 500}, resamples=0)).predicted.all()


def test_for_calibrated_probabilities_it_is_the_one_that_theory_knows():
    random = np.random.default_rng(1)
    p = random.uniform(0, 1, 50_000)
    truth = (random.random(50_000) < p).astype(int)
    found = choose_threshold(
        Outcome("binary", truth, truth, (0, 1), 1, np.stack([1 - p, p], axis=1)), {"fp": 1, "fn": 4}, resamples=20
    )
    assert found.theory == pytest.approx(0.2) and found.value == pytest.approx(0.2, abs=0.05)
    assert math.isnan(choose_threshold(draw(300, probable=False), COSTS, resamples=0).theory)


def test_the_told_cost_is_that_on_new_rows_and_the_apparent_one_is_too_low(size, measured):
    draws, rows, told, apparent, true, covered = size("threshold_draws"), 150, [], [], [], 0
    world = draw(100_000, seed=10_000)
    for seed in range(draws):
        found = choose_threshold(draw(rows, seed), COSTS, resamples=200, seed=seed)
        wrong = (world.positive_scores >= found.value) != (world.truth == 1)
        true.append(float((wrong * np.where(world.truth == 1, 5.0, 1.0)).mean()))
        told.append(found.cost)
        apparent.append(found.apparent)
        covered += found.low <= true[-1] <= found.high
    bias, optimism = np.mean(told) - np.mean(true), np.mean(true) - np.mean(apparent)
    measured(draws=draws, true_cost=f"{np.mean(true):.3f}", told=f"{np.mean(told):.3f}",
             apparent=f"{np.mean(apparent):.3f}", covered=f"{covered / draws:.1%}")
    noise = 3 * np.std(np.subtract(told, true)) / math.sqrt(draws)
    assert optimism > 0 and abs(bias) < noise + optimism / 2
    assert covered / draws > 0.92 - 3 * math.sqrt(0.05 * 0.95 / draws)


def label_values(outcome: Outcome) -> dict[str, float]:
    return read_families([label_family(outcome)], np.ones(outcome.rows))


def world(kind: str, rows: int, seed: int) -> Outcome:
    """Rows of a model that is good, or whose scores are dice."""
    if kind == "good":
        return draw(rows, seed)
    random = np.random.default_rng(seed)
    truth, scores = (random.random(rows) < 0.5).astype(int), random.random(rows)
    return Outcome("binary", truth, (scores > 0.5).astype(int), ("no", "yes"), 1, np.stack([1 - scores, scores], axis=1))


@pytest.mark.parametrize("costs", [{"fp": 1, "fn": 1}, COSTS], ids=["equal", "misses dear"])
@pytest.mark.parametrize("rows", [60, 150, 1000])
@pytest.mark.parametrize("kind", ["random", "good"])
def test_label_metrics_at_a_chosen_threshold_are_those_of_new_rows(kind, rows, costs, size, measured):
    draws, everyone = size("honest_threshold_draws"), world(kind, 50_000, 10_000)
    covered, gaps, flattery = [], [], []
    for seed in range(draws):
        outcome = world(kind, rows, seed)
        chosen = choose_threshold(outcome, costs, resamples=0)
        true, apparent = (label_values(apply_threshold(o, chosen)) for o in (everyone, outcome))
        told = honest_label_metrics(outcome, costs, resamples=40 if draws < 100 else 200, seed=seed).set_index("metric")
        covered.append([told.loc[name, "low"] <= true[name] <= told.loc[name, "high"] for name in told.index])
        gaps.append([told.loc[name, "value"] - true[name] for name in told.index])
        flattery.append([apparent[name] - true[name] for name in told.index])
    share, bias, before = np.mean(covered, axis=0), np.mean(gaps, axis=0), np.mean(flattery, axis=0)
    measured(draws=draws, **{
        name: f"{c:.1%} (off by {b:+.3f}, before {a:+.3f})" for name, c, b, a in zip(told.index, share, bias, before, strict=True)
    })
    noise = 3 * math.sqrt(0.05 * 0.95 / draws)
    assert share.min() >= 0.90 - noise, dict(zip(told.index, share, strict=True))
    assert (bias < 0.02 + 3 * np.std(gaps, axis=0) / math.sqrt(draws)).all()
    assert abs(bias[0]) < max(0.012, before[0] / 2) + 3 * np.std(gaps, axis=0)[0] / math.sqrt(draws)


def test_a_corrected_table_keeps_what_no_threshold_touches():
    outcome = draw(200)
    applied = apply_threshold(outcome, choose_threshold(outcome, COSTS, resamples=0))
    table = metric_table(applied, resamples=50)
    corrected = correct_label_metrics(table, applied, COSTS, resamples=50)
    assert list(corrected) == list(table) and corrected["metric"].tolist() == table["metric"].tolist()
    label = table["metric"].isin(["accuracy", "balanced_accuracy", "precision", "recall", "f1", "mcc"])
    assert corrected[~label].equals(table[~label]) and not (corrected[label]["value"] == table[label]["value"]).any()
    assert corrected[label].equals(correct_label_metrics(table, outcome, COSTS, resamples=50)[label])
    plain = honest_label_metrics(outcome, COSTS, resamples=0).set_index("metric")
    assert plain.loc["accuracy", "value"] == metric_values(applied)["accuracy"] and plain["low"].isna().all()
    few = honest_label_metrics(outcome.take([0, 1]), COSTS, resamples=50)
    assert few[["low", "high"]].isna().all(axis=None)


def test_decision_scores_are_refused_before_the_work_begins():
    outcome = draw(300, probable=False)
    said = "costs: the model must give probabilities, got decision scores. "
    said += "Wrap the model in scikit-learn's CalibratedClassifierCV."
    with pytest.raises(InputError) as caught:
        threshold_section(Case(None, None, outcome.truth, outcome, resamples=10**9), COSTS)
    assert str(caught.value) == said


def test_the_section_gives_findings_for_the_gate_and_a_threshold_for_the_bundle():
    outcome = draw(600)
    case = Case(None, None, outcome.truth, outcome, resamples=100)
    section = threshold_section(case, COSTS)
    assert set(section.findings) == {"threshold", "cost", "cost.low", "cost.high"} and section.concerns == ()
    assert section.findings["cost.low"] < section.findings["cost"] < section.findings["cost.high"]
    kept = section.facts["threshold"]
    assert kept["positive"] == "yes" and kept["value"] == section.findings["threshold"]
    assert section.evidence[1].table["choice"].tolist() == [
        "chosen", "the model's own", "theory", "call nobody", "call everybody"
    ]
    assert section.evidence[2].svg.startswith("<svg")
    again = threshold_section(case, COSTS)
    assert again.findings == section.findings and again.evidence[2].svg == section.evidence[2].svg


def test_costs_that_make_no_sense_are_refused():
    outcome = draw(50)
    for costs, error, words in (
        ({"fp": 1}, InputError, "a miss .fn. must cost more"), ({"fp": 0, "fn": 1}, InputError, "a false alarm"),
        ({"fp": "much", "fn": 1}, InputError, "fp must be a number"), ({"false": 1}, NotFound, "cost"),
        ({"fp": math.inf, "fn": 1}, InputError, "must be finite"), ({"fp": 1, "fn": 1, "tp": 2}, InputError, "a miss"),
    ):
        with pytest.raises(error, match=words):
            choose_threshold(outcome, costs)
    with pytest.raises(InputError, match="task must be binary"):
        choose_threshold(Outcome("regression", np.zeros(3), np.zeros(3)), COSTS)
    with pytest.raises(InputError, match="probabilities or scores"):
        choose_threshold(Outcome("binary", outcome.truth, outcome.predicted, (0, 1), 1), COSTS)
