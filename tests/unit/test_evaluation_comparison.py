"""Models on the same rows: differences with paired intervals, classical tests, Holm, and a plain sentence."""

import math

import numpy as np
import pytest
from scipy.stats import binom, wilcoxon

from mlworkbench.core.errors import InputError
from mlworkbench.evaluation.comparison import (
    Difference,
    compare_section,
    differences,
    main_differences,
    mcnemar_p,
    paired_test,
    sentence,
    sign_p,
)
from mlworkbench.evaluation.metrics import applicable, metric_values, resample_metrics
from mlworkbench.evaluation.rows import Outcome
from mlworkbench.evaluation.sections import Case


def scored(truth: np.ndarray, sharp: float, seed: int, noise: np.ndarray | None = None) -> Outcome:
    """A binary outcome whose scores tell the truth the better the higher `sharp` is."""
    random = np.random.default_rng(seed)
    raw = sharp * (truth - 0.5) + (random.normal(size=len(truth)) if noise is None else noise)
    p = 1 / (1 + np.exp(-raw))
    return Outcome("binary", truth, (p > 0.5).astype(int), ("no", "yes"), 1, np.stack([1 - p, p], axis=1))


def case_of(outcome: Outcome, **options: object) -> Case:
    return Case(None, None, outcome.truth, outcome, **options)


TRUTH = np.random.default_rng(0).integers(0, 2, 800)


def test_a_clearly_worse_model_is_a_concern_and_a_clearly_better_one_is_said_so():
    strong, weak = scored(TRUTH, 3, 1), scored(TRUTH, 1, 2)
    good = compare_section(case_of(strong, resamples=200), {"champion": weak})
    assert good.concerns == () and good.evidence[0].text.startswith("Surely better than champion: roc auc")
    bad = compare_section(case_of(weak, resamples=200), {"champion": strong})
    assert len(bad.concerns) == 1 and bad.concerns[0].startswith("Surely worse than champion")
    ends = [s.findings[f'against("champion").roc_auc.difference.{e}'] for s, e in ((bad, "high"), (good, "low"))]
    assert ends[0] < 0 < ends[1]
    assert good.facts["against"][0]["verdict"] == "better"


def test_findings_hold_every_metric_of_both_and_its_difference():
    own, other = scored(TRUTH, 2, 1), scored(TRUTH, 1.8, 2)
    found = compare_section(case_of(own, resamples=20), {'a "b".c ö': other}).findings
    values = metric_values(own), metric_values(other)
    for metric in applicable(own):
        head = f'against("a \\"b\\".c ö").{metric}'
        assert found[head] == values[1][metric]
        assert found[f"{head}.difference"] == pytest.approx(values[0][metric] - values[1][metric], abs=1e-15)
        assert found[f"{head}.difference.low"] <= found[f"{head}.difference.high"]


def test_pairing_sees_what_two_separate_intervals_would_miss():
    noise = np.random.default_rng(3).normal(size=len(TRUTH))
    own, other = scored(TRUTH, 1.6, 0, noise), scored(TRUTH, 1.4, 0, noise)
    section = compare_section(case_of(own, resamples=200), {"champion": other})
    from mlworkbench.evaluation.metrics import metric_table

    tables = [metric_table(o, resamples=200).set_index("metric").loc["roc_auc"] for o in (own, other)]
    assert tables[0]["low"] < tables[1]["high"]  # they overlap
    assert section.facts["against"][0]["verdict"] == "better"


def test_a_model_against_itself_is_alike_in_every_test():
    own = scored(TRUTH, 2, 1)
    section = compare_section(case_of(own, resamples=50), {"itself": own})
    assert section.concerns == () and section.facts["against"][0]["verdict"] == "alike"
    assert section.findings['against("itself").p_value'] == 1 and "McNemar p = 1" in section.evidence[1].table["paired test"][0]


def rows_against(own: Outcome, other: Outcome, seed: int) -> list[Difference]:
    """What the section computes, without its figures."""
    case = case_of(own, resamples=200, seed=seed)
    return differences(case, "other", other, resample_metrics(own, 200, seed))


def test_equal_models_are_rarely_called_different(size, measured):
    draws, wrong = size("comparison_null_draws"), 0
    for seed in range(draws):
        truth = np.random.default_rng(seed).integers(0, 2, 300)
        own, other = scored(truth, 1.5, 2 * seed + 1), scored(truth, 1.5, 2 * seed + 2)
        found = main_differences(case_of(own, resamples=200, seed=seed), {"other": rows_against(own, other, seed)}, {})
        wrong += found[0].verdict() != "alike"
    measured(draws=draws, false_alarms=f"{wrong / draws:.1%}")
    assert wrong / draws <= 0.06 + 3 * math.sqrt(0.05 * 0.95 / draws)


def test_several_challengers_are_held_to_holm():
    others = {f"m{i}": scored(TRUTH, 1.9, i + 10) for i in range(5)}
    facts = compare_section(case_of(scored(TRUTH, 2, 1), resamples=200), others).facts["against"]
    assert all(f["adjusted"] >= f["p"] for f in facts) and max(f["adjusted"] / f["p"] for f in facts) > 1


def test_without_resamples_the_classical_test_decides():
    section = compare_section(case_of(scored(TRUTH, 3, 1), resamples=0), {"weak": scored(TRUTH, 0.5, 2)})
    assert math.isnan(section.findings['against("weak").roc_auc.difference.low'])
    assert section.facts["against"][0]["verdict"] == "better"
    assert "Without intervals" in section.evidence[1].note


def test_classes_in_another_order_are_put_in_ours():
    own = scored(TRUTH, 2, 1)
    turned = Outcome("binary", 1 - TRUTH, 1 - own.predicted, ("yes", "no"), 0, own.scores[:, ::-1])
    section = compare_section(case_of(own, resamples=10), {"turned": turned})
    assert section.findings['against("turned").log_loss.difference'] == pytest.approx(0, abs=1e-15)


def test_what_cannot_be_compared_is_refused():
    own = scored(TRUTH, 2, 1)
    for other, words in (
        (own.take(slice(0, 5)), "the same 800 rows, got 5 rows"), (scored(1 - TRUTH, 1, 1), "same true answers"),
        (Outcome("regression", TRUTH * 1.0, TRUTH * 1.0), "must have the task binary, got regression"),
        (Outcome("binary", TRUTH, TRUTH, ("a", "b"), 1), "must know the same classes"),
    ):
        with pytest.raises(InputError, match=words):
            compare_section(case_of(own), {"other": other})


def test_regressions_and_clusters_are_compared_too():
    random = np.random.default_rng(0)
    truth = random.normal(size=300)
    near, far = (Outcome("regression", truth, truth + random.normal(0, s, 300)) for s in (0.5, 1))
    section = compare_section(case_of(near, resamples=100), {"far": far})
    assert section.facts["against"][0]["verdict"] == "better" and section.findings['against("far").rmse.difference'] < 0
    assert section.facts["against"][0]["metric"] == "rmse"
    groups = random.integers(0, 2, 100)
    rows = random.normal(size=(100, 2)) + 4 * groups[:, None]
    own = Outcome("cluster", None, groups, (0, 1), features=rows)
    chance = Outcome("cluster", None, random.integers(0, 2, 100), (0, 1), features=rows)
    assert compare_section(case_of(own, resamples=50), {"chance": chance}).facts["against"][0]["verdict"] == "better"


def test_the_classical_tests_are_scipys():
    a, b = np.random.default_rng(0).random((2, 200)) < [[0.8], [0.7]]
    only_a, only_b = (a & ~b).sum(), (b & ~a).sum()
    tail = binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
    assert mcnemar_p(a, b) == pytest.approx(min(1, 2 * tail), abs=1e-12)
    truth = np.random.default_rng(1).normal(size=100)
    own, other = (Outcome("regression", truth, truth + np.random.default_rng(s).normal(size=100)) for s in (2, 3))
    gaps = abs(own.predicted - truth) - abs(other.predicted - truth)
    assert paired_test(own, other) == ("Wilcoxon", pytest.approx(wilcoxon(gaps, method="asymptotic").pvalue))


def test_a_difference_that_cannot_be_told_says_so():
    assert "Nothing can be said" in sentence(Difference("x", "roc_auc", math.nan, 0.5), 0.95, 1)
    assert math.isnan(sign_p(np.array([math.nan])))
    assert sign_p(np.arange(1, 1000)) == pytest.approx(2 / 1000)
