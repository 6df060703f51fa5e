"""Two-sample tests and intervals: against SciPy, under no change, and at their edges."""

import math

import numpy as np
import pytest
from scipy import stats

from mlworkbench.core.errors import InputError
from mlworkbench.statistics.intervals import mean_interval, percentile_interval, resample_weights, wilson_interval
from mlworkbench.statistics.tests import benjamini_hochberg, cramers_v, holm, pool_sparse, psi, two_sample_chi2


def test_chi2_equals_scipy_where_no_bin_is_sparse():
    ours = two_sample_chi2([100, 200, 300], [120, 180, 310])
    theirs = stats.chi2_contingency([[100, 200, 300], [120, 180, 310]], correction=False)
    assert (ours.statistic, ours.p_value) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))
    assert cramers_v(np.array([[100, 200, 300], [120, 180, 310]])) == pytest.approx(
        stats.contingency.association(np.array([[100, 200, 300], [120, 180, 310]]), method="cramer"))


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.05, 0.03, 0.01, 0.005, 0.005], [1 / 20] * 20])
def test_chi2_under_no_change_rejects_as_often_as_it_says(shares):
    random = np.random.default_rng(0)
    draws = [(random.multinomial(2000, shares), random.multinomial(300, shares)) for _ in range(1000)]
    p_values = np.array([two_sample_chi2(*pair).p_value for pair in draws])
    assert 0.03 <= np.mean(p_values < 0.05) <= 0.07


def test_pooling_reaches_the_expected_count_and_loses_nobody():
    table = np.array([[1000.0, 40, 3, 2, 1, 0, 30], [80, 3, 0, 1, 0, 2, 2]])
    pooled = pool_sparse(table)
    expected = pooled.sum(axis=1, keepdims=True) * pooled.sum(axis=0) / pooled.sum()
    assert pooled.sum() == table.sum() and expected.min() >= 5


@pytest.mark.parametrize("pair", [([5, 0], [3, 0]), ([0, 0], [0, 0]), ([10, 3], [0, 0]), ([1, 1], [1, 1])])
def test_too_little_to_say_is_not_a_change(pair):
    assert two_sample_chi2(*pair).p_value == 1.0
    assert psi(*pair) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("pair", [([1, 2], [1, 2, 3]), ([], []), ([1, -2], [1, 2]), ([1, math.nan], [1, 2])])
def test_counts_that_are_no_counts_are_refused(pair):
    for test in (two_sample_chi2, psi):
        with pytest.raises(InputError):
            test(*pair)


def test_psi_is_symmetric_and_grows_with_the_shift():
    small, large = psi([500, 300, 200], [450, 320, 230]), psi([500, 300, 200], [200, 300, 500])
    assert 0 < small < 0.1 < 0.2 < large
    assert psi([200, 300, 500], [500, 300, 200]) == pytest.approx(large)


def test_adjusted_p_values_match_worked_examples():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert holm([]) == benjamini_hochberg([]) == []
    with pytest.raises(InputError):
        holm([1.2])


def test_wilson_equals_scipy_and_stays_within_0_and_1():
    for successes, n in ((0, 10), (3, 10), (10, 10), (480, 500)):
        theirs = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
        ours = wilson_interval(successes, n)
        assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))
        assert 0 <= ours.low <= ours.high <= 1
    assert math.isnan(wilson_interval(0, 0).low)


def test_impossible_intervals_are_refused():
    with pytest.raises(InputError, match="between 0 and n"):
        wilson_interval(11, 10)
    with pytest.raises(InputError, match="confidence"):
        mean_interval(0, 1, 10, confidence=95)
    with pytest.raises(InputError, match="at least 1"):
        next(resample_weights(0, 10))


def test_weights_are_seeded_counts_that_sum_to_the_rows():
    first, again, other = (np.array(list(resample_weights(50, 20, seed))) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    assert (first.sum(axis=1) == 50).all() and (first >= 0).all()


def test_mostly_undefined_resamples_give_no_interval():
    assert math.isnan(percentile_interval(np.array([1.0, 2.0, np.nan, np.nan])).low)
    assert not math.isnan(percentile_interval(np.array([1.0] * 99 + [np.nan])).low)
