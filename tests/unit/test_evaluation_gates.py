"""Gates: what is read, what is refused, and how a no is told."""

import math
import random

import pytest

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.evaluation.gates import (
    HEADS,
    Rule,
    check_gate,
    check_options,
    gate_reasons,
    gate_rules,
    parse_rule,
    read_rules,
)
from mlworkbench.evaluation.sections import finding_path

FOUND = {
    "accuracy": 0.8, "accuracy.low": 0.78, "accuracy.high": 0.82, "log_loss": 0.4, "log_loss.high": 0.43,
    "roc_auc": math.nan, 'slice("sex").accuracy.gap': 0.08, 'slice("sex", "F").accuracy': 0.74,
    'against("champion").roc_auc.difference.low': -0.01,
}


@pytest.mark.parametrize(("text", "holds", "margin"), [
    ("accuracy >= 0.8", True, 0.0), ("accuracy > 0.8", False, 0.0), ("accuracy.low >= .79", False, -0.01),
    ("log_loss <= 4e-1", True, 0.0), ("log_loss.high<0.5", True, 0.07), ("  accuracy  >=  -1 ", True, 1.8),
    ("0.8 <= accuracy", True, 0.0), ("accuracy.value >= 0.8", True, 0.0), ("slice('sex').accuracy.gap <= 0.05", False, -0.03),
    ('slice("sex", "F") .accuracy > 0.7', True, 0.04), ("accuracy\n  >= 0.5", True, 0.3), ("(accuracy) >= +0.5", True, 0.3),
    ('against("champion").roc_auc.difference.low >= -0.02', True, 0.01), ("1 > accuracy", True, 0.2),
])
def test_a_rule_holds_with_its_margin(text, holds, margin):
    row = check_gate([parse_rule(text)], FOUND).iloc[0]
    assert row["holds"] == holds and row["margin"] == pytest.approx(margin)


@pytest.mark.parametrize("text", [
    "", "accuracy", "accuracy >=", ">= 0.8", "accuracy == 0.8", "accuracy >= high", "accuracy >= 0.8; import os",
    "accuracy >= 0.8 and f1 >= 0.8", "accuracy >= nan", "accuracy >= 1e", "accuracy >= 1e999", "accuracy >= True",
    "__import__('os') >= 1j", "accuracy() >= 1", None, 3, "accuracy >= 80 %", "accuracy = 0.8", "accuracy ≥ 0.8", "0.5 <= 0.8",
    "slice(sex).accuracy >= 1", "slice('a', b='c').accuracy >= 1", "slice(*'ab').f1 > 0", "slice('a')('b').f1 > 0",
    "slice(f'{x}').f1 > 0", "slice('a'.upper()).f1 > 0", "[accuracy][0] > 0", "accuracy >= 0.5 + 0.3", "accuracy >= --1",
    "(lambda: 1)() > 0", "accuracy in 0.5", "0.1 <= accuracy >= 0.2", "0.1 <= accuracy <= f1", "accuracy >= 0.8 if 1 else 0",
    "(accuracy := 1) > 0", "slice(“sex”).f1 > 0", "a\x00 > 1", "(" * 400, "accuracy >= " + "9" * 600, "slice('a' * 9**9).f1 > 0",
])
def test_what_is_no_comparison_is_refused(text):
    with pytest.raises(InputError, match="must compare a metric with a number"):
        read_rules(text)


@pytest.mark.parametrize(("text", "place"), [
    ("roc_auc = 0.8", "'= 0.8' at character 9"), ("roc_auc >=", "its end"), ("slice(\"Ä\", 3) == 3", "'3' at character 18"),
    ("slice('Ö').f1 >= 2 * 3", "'2 * 3' at character 18"), ("roc_auc >= 80 %", "its end. Write 5 % as 0.05"),
    ("slice('ß', größe).f1 > 0", "'größe).f1 > 0' at character 12"),
])
def test_the_place_of_a_fault_is_shown(text, place):
    with pytest.raises(InputError, match="look at") as told:
        read_rules(text)
    assert place in str(told.value)


def test_reading_never_runs_what_is_written(tmp_path):
    planted = tmp_path / "planted"
    for text in (f"__import__('pathlib').Path({str(planted)!r}).touch() > 0", f"slice(open({str(planted)!r}, 'w')).f1 > 0",
                 f"[open({str(planted)!r}, 'w') for x in 'a'] > 0"):
        with pytest.raises(InputError):
            read_rules(text)
    assert not planted.exists()


def test_random_bytes_are_refused_with_a_message_or_read():
    draw = random.Random(0)
    alphabet = "accuracy>=<.0123456789()\"'slice ,[]{}\\\n\x00#:+-*ä😀eE_"
    for _ in range(3000):
        text = "".join(draw.choice(alphabet) for _ in range(draw.randrange(30)))
        try:
            assert all(isinstance(rule, Rule) for rule in read_rules(text))
        except InputError as error:
            assert str(error).startswith("gate: ")


@pytest.mark.parametrize("name", ["sex", "a \"quoted\" name", "with 'single'", "größe (cm)", "日本", "a\\b", "<b>", "", " "])
def test_any_name_of_a_column_can_be_asked_for(name):
    path = finding_path("slice", name, "Ä & b", then=("accuracy", "gap"))
    assert parse_rule(f"{path} <= 0.1").path == path
    assert str(parse_rule(f"slice({name!r}, 'Ä & b').accuracy.gap <= 0.1")) == f"{path} <= 0.1"


@pytest.mark.parametrize("head", HEADS)
def test_the_example_of_each_analysis_is_a_rule(head):
    assert parse_rule(HEADS[head].example).path.startswith(head)


def test_a_rule_written_out_reads_back_as_itself():
    for text in ("accuracy >= 0.123456789012", "slice('a', -1, True).f1 < -1e-09", "log_loss <= 1e22"):
        assert parse_rule(str(parse_rule(text))) == parse_rule(text)


def test_a_range_is_two_rules():
    assert [str(r) for r in gate_rules(["0.7 < accuracy <= 0.9"])] == ["accuracy > 0.7", "accuracy <= 0.9"]
    assert [str(r) for r in gate_rules(["0.9 >= accuracy >= 0.7"])] == ["accuracy <= 0.9", "accuracy >= 0.7"]
    with pytest.raises(InputError, match="two expressions"):
        parse_rule("0.7 < accuracy <= 0.9")


def test_an_unknown_metric_is_told_the_closest():
    with pytest.raises(NotFound, match="Did you mean 'accuracy'"):
        gate_rules(["acuracy >= 0.9"])
    with pytest.raises(NotFound, match="Did you mean 'slice'"):
        gate_rules(["slices('sex').f1 >= 0.9"])


def test_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="value, low, high"):
        parse_rule("accuracy.lower >= 0.9")
    with pytest.raises(InputError, match="value, low, high"):
        parse_rule("accuracy.low.low >= 0.9")
    with pytest.raises(InputError, match="stands alone"):
        parse_rule("accuracy('sex') >= 0.9")


def test_a_metric_of_another_task_is_refused():
    with pytest.raises(NotFound, match="Known: accuracy, log_loss"):
        check_gate(gate_rules("rmse <= 1"), FOUND)


@pytest.mark.parametrize(("text", "told"), [
    ('slice("sx").accuracy.gap <= 0', "Did you mean 'slice(\"sex\").accuracy.gap'"),
    ('slice("sex").acuracy.gap <= 0', "Did you mean 'slice(\"sex\").accuracy.gap'"),
    ('against("champ").roc_auc.difference.low >= 0', "Did you mean 'against(\"champion\")"),
    ("cost <= 1", "needs the option costs, got none. Give costs={'fp': 1"),
    ("train.accuracy.gap <= 1", "Give train="), ("checks.overlap <= 0", "Give train="),
    ("latency_p95_ms <= 20", "Nothing of the kind was found here"),
])
def test_what_was_not_found_is_told_with_what_to_do(text, told):
    with pytest.raises(InputError) as error:
        check_gate(gate_rules(text), FOUND)
    assert told in str(error.value)


def test_options_are_asked_for_before_any_work():
    check_options(gate_rules(["accuracy >= 0.5", 'fairness("sex").x <= 1', 'slice("a").f1 > 0']), ["sensitive"])
    with pytest.raises(InputError, match="needs the option folds"):
        check_options(gate_rules("cross_validation.f1.mean >= 0.5"), ["train"])


def test_an_interval_that_was_left_out_is_an_input_fault():
    with pytest.raises(InputError, match="Set resamples to 1000"):
        check_gate(gate_rules("accuracy.low >= 0.5"), FOUND | {"accuracy.low": math.nan}, intervals=False)


def test_an_undefined_metric_does_not_hold_and_says_why():
    checked = check_gate(gate_rules(["roc_auc >= 0", "roc_auc <= 1"]), FOUND)
    assert not checked["holds"].any()
    assert all("not enough rows to say" in reason for reason in gate_reasons(checked))


def test_a_no_is_told_with_what_is_missing():
    reasons = gate_reasons(check_gate(gate_rules(["accuracy >= 0.9", "accuracy >= 0.5", "accuracy < 0.8"]), FOUND))
    assert reasons == ("accuracy >= 0.9 does not hold: it is 0.8, off by 0.1.",
                       "accuracy < 0.8 does not hold: it is exactly that.")


def test_a_dict_is_normalised_to_the_list():
    as_dict = gate_rules({"accuracy": 0.7, "log_loss": 0.5, "accuracy.low": "> 0.6", "slice('rmse').log_loss.worst": 1,
                          'slice("sex").accuracy.gap': 0.1, 'slice("sex").accuracy': 0.6, "cost": 3})
    assert as_dict == gate_rules(["accuracy >= 0.7", "log_loss <= 0.5", "accuracy.low > 0.6", "slice('rmse').log_loss.worst <= 1",
                                  'slice("sex").accuracy.gap <= 0.1', 'slice("sex").accuracy >= 0.6', "cost <= 3"])
    with pytest.raises(InputError, match="a bare number must be for a metric"):
        gate_rules({"against('a').log_loss.difference": 0})


def test_no_gate_is_no_rule():
    assert gate_rules(None) == gate_rules([]) == gate_rules({}) == []
    assert check_gate([], FOUND)["holds"].all()


def test_a_gate_of_another_kind_is_refused():
    with pytest.raises(InputError, match="list of expressions"):
        gate_rules(0.8)
