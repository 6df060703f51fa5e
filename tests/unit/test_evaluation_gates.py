"""Gates: what is read, what is refused, and how a no is told."""

import math

import pandas as pd
import pytest

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.evaluation.gates import check_gate, gate_reasons, gate_rules, parse_rule

TABLE = pd.DataFrame({
    "metric": ["accuracy", "log_loss", "roc_auc"], "value": [0.8, 0.4, math.nan], "low": [0.78, 0.37, math.nan],
    "high": [0.82, 0.43, math.nan],
})


@pytest.mark.parametrize(("text", "holds", "margin"), [
    ("accuracy >= 0.8", True, 0.0), ("accuracy > 0.8", False, 0.0), ("accuracy.low >= .79", False, -0.01),
    ("log_loss <= 4e-1", True, 0.0), ("log_loss.high<0.5", True, 0.07), ("  accuracy  >=  -1 ", True, 1.8),
])
def test_a_rule_holds_with_its_margin(text, holds, margin):
    row = check_gate([parse_rule(text)], TABLE).iloc[0]
    assert row["holds"] == holds and row["margin"] == pytest.approx(margin)


@pytest.mark.parametrize("text", [
    "", "accuracy", "accuracy >=", ">= 0.8", "accuracy == 0.8", "accuracy >= high", "accuracy >= 0.8; import os",
    "accuracy >= 0.8 and f1 >= 0.8", "accuracy.low.low >= 1", "0.8 <= accuracy", "accuracy >= nan", "accuracy >= 1e",
    "__import__('os') >= 1", "accuracy() >= 1", None, 3,
])
def test_what_is_no_comparison_is_refused(text):
    with pytest.raises(InputError, match="must compare a metric with a number"):
        parse_rule(text)


def test_an_unknown_metric_is_told_the_closest():
    with pytest.raises(NotFound, match="Did you mean 'accuracy'"):
        gate_rules(["acuracy >= 0.9"])


def test_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="value, low, high"):
        parse_rule("accuracy.lower >= 0.9")


def test_a_metric_of_another_task_is_refused():
    with pytest.raises(NotFound, match="Known: accuracy, log_loss"):
        check_gate(gate_rules("rmse <= 1"), TABLE)


def test_an_undefined_metric_does_not_hold_and_says_why():
    checked = check_gate(gate_rules(["roc_auc >= 0", "roc_auc <= 1"]), TABLE)
    assert not checked["holds"].any()
    assert all("not enough rows to say" in reason for reason in gate_reasons(checked))


def test_a_no_is_told_with_what_is_missing():
    reasons = gate_reasons(check_gate(gate_rules(["accuracy >= 0.9", "accuracy >= 0.5"]), TABLE))
    assert reasons == ("accuracy >= 0.9 does not hold: it is 0.8, 0.1 short.",)


def test_a_dict_is_normalised_to_the_list():
    as_dict = gate_rules({"accuracy": 0.7, "log_loss": 0.5, "accuracy.low": "> 0.6"})
    assert as_dict == gate_rules(["accuracy >= 0.7", "log_loss <= 0.5", "accuracy.low > 0.6"])


def test_no_gate_is_no_rule():
    assert gate_rules(None) == gate_rules([]) == gate_rules({}) == []


def test_a_gate_of_another_kind_is_refused():
    with pytest.raises(InputError, match="list of expressions"):
        gate_rules(0.8)
