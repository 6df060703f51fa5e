"""The form: from a stage's parameters to controls and back, and what is said when a field is wrong."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from mlworkbench.core.errors import InputError
from mlworkbench.core.stages import Advanced, Setting, stage
from mlworkbench.panels.form import Form, from_text, hint_html, is_advanced, to_text


@stage("Is it good?", makes="evaluation")
def weigh(
    data: str = "latest",
    *,
    gate: list[str] | None = None,
    limits: dict[str, float] | None = None,
    side: Literal["left", "right"] = "left",
    way: Literal["up", "down"] | None = None,
    quick: bool = False,
    careful: bool | None = None,
    rows: Annotated[int, Field(ge=1, le=100)] = 5,
    share: float = 0.5,
    confidence: Annotated[float | None, Field(ge=0.5, le=0.999), Setting("evaluation.confidence")] = None,
    environment: Annotated[Literal["isolated", "current"] | None, Setting("bundling.environment")] = None,
    seed: Annotated[int, Advanced()] = 0,
):
    """Weigh.

    Parameters
    ----------
    data
        what to weigh
    gate
        what must hold <b>
    confidence
        coverage of the intervals
    """


@pytest.fixture
def form():
    return Form(weigh.stage)


def control(form, name):
    return form.fields[name].control


def test_an_untouched_form_gives_the_stage_its_own_defaults(form):
    assert form.values() == weigh.stage.defaults()


def test_every_parameter_has_one_field_labelled_with_its_name(form):
    labels = [field.control.description for field in form.fields.values()]
    assert labels == [p.label for p in weigh.stage.parameters]


def test_the_control_fits_the_parameter(form):
    kinds = {name: type(field.control).__name__ for name, field in form.fields.items()}
    assert kinds["gate"] == kinds["limits"] == "Textarea"
    assert kinds["side"] == kinds["way"] == kinds["careful"] == "Dropdown"
    assert kinds["quick"] == "Checkbox"
    assert kinds["rows"] == kinds["data"] == "Text"


def test_what_is_typed_arrives_as_the_stage_means_it(form):
    control(form, "gate").value = "f1 >= 0.5\n\n  roc_auc.low >= 0.8  \n"
    control(form, "limits").value = "age = 3\nsize = 0.25"
    control(form, "rows").value = " 7 "
    control(form, "share").value = "1e-3"
    control(form, "quick").value = True
    control(form, "side").value = "right"
    found = form.values()
    assert found["gate"] == ["f1 >= 0.5", "roc_auc.low >= 0.8"]
    assert found["limits"] == {"age": 3.0, "size": 0.25}
    assert (found["rows"], found["share"], found["quick"], found["side"]) == (7, 0.001, True, "right")
    assert type(found["rows"]) is int


def test_an_emptied_field_is_left_to_its_default(form):
    form.set(rows=9, data="file.csv", gate=["a >= 1"])
    for name in ("rows", "data", "gate"):
        control(form, name).value = "  "
    found = form.values()
    assert (found["rows"], found["data"], found["gate"]) == (5, "latest", None)


def test_values_put_in_come_out_again(form):
    values = {"gate": ["a >= 1"], "limits": {"age": 2.0}, "way": "down", "careful": False, "rows": 3, "quick": True,
              "confidence": 0.9, "environment": "current", "seed": 4}
    form.set(**values)
    assert {n: v for n, v in form.values().items() if n in values} == values


def test_an_unknown_name_is_refused_with_the_closest(form):
    with pytest.raises(InputError, match="Did you mean 'gate'"):
        form.set(gaet=["a >= 1"])


def test_a_wrong_field_is_marked_in_words_when_it_is_left(form):
    control(form, "rows").value = "many"
    field = form.fields["rows"]
    assert "integer" in field.notice.value and "role='alert'" in field.notice.value
    assert "mlw-invalid" in field.widget._dom_classes and "weigh:" not in field.notice.value
    assert "integer" in control(form, "rows").tooltip
    control(form, "rows").value = "8"
    assert field.notice.value == "" and "mlw-invalid" not in field.widget._dom_classes


def test_all_wrong_fields_are_named_at_once(form):
    form.set(rows=1000, confidence=2)
    with pytest.raises(InputError, match=r"Rows: .*100.*; Confidence: .*0\.999"):
        form.values()
    assert form.fold.is_open


def test_a_problem_of_the_run_is_put_beside_the_field_that_it_names(form):
    form.point_at(InputError("weigh: data: the file must be there, got 'x'. Give a path."))
    assert "The file must be there" in form.fields["data"].notice.value
    form.point_at(InputError("disk: it must have room"))


def test_an_empty_setting_field_shows_the_value_in_force_and_its_origin(form, monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_EVALUATION_CONFIDENCE", "0.9")
    fresh = Form(weigh.stage)
    assert control(fresh, "confidence").placeholder == "0.9"
    assert "<code>0.9</code> from settings, evaluation.confidence (environment)" in fresh.fields["confidence"].hint.value
    assert fresh.values()["confidence"] is None
    assert control(form, "environment").label == "from settings (isolated)" and form.values()["environment"] is None


def test_a_broken_settings_value_is_told_in_the_form_and_does_not_break_it(monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_EVALUATION_CONFIDENCE", "7")
    assert "setting evaluation.confidence (environment)" in hint_html(weigh.stage.parameter("confidence"))
    Form(weigh.stage)


def test_help_is_text_and_never_markup(form):
    assert "&lt;b&gt;" in form.fields["gate"].hint.value and "<b>" not in form.fields["gate"].hint.value


def test_rarely_touched_parameters_are_folded_away_until_one_is_set(form):
    assert {p.name for p in weigh.stage.parameters if is_advanced(p)} == {"confidence", "environment", "seed"}
    assert not form.fold.is_open and form.fold.button.description == "More options (3)"
    form.fold.button.click()
    assert form.fold.is_open
    assert Form(weigh.stage, {"seed": 3}).fold.is_open
    assert not Form(weigh.stage, {"seed": 0}).fold.is_open


def test_what_the_notebook_gives_is_shown_and_neither_asked_nor_passed():
    form = Form(weigh.stage, {"data": "ignored.csv"}, given={"data": "8,000 rows <in memory>"})
    assert "data" not in form.fields and "data" not in form.values()
    assert "8,000 rows &lt;in memory&gt;" in form.widget.children[0].value


def test_fields_are_locked_and_freed_together(form):
    form.enable(False)
    assert all(field.control.disabled for field in form.fields.values())
    form.enable(True)
    assert not any(field.control.disabled for field in form.fields.values())


@pytest.mark.parametrize("value", [["a >= 1", "b >= 2"], {"a": 1, "b": "text", "c": True}, None])
def test_text_and_value_are_each_others_way_back(value):
    kind = type(value).__name__ if value is not None else "str"
    assert from_text(kind, to_text(value)) == value


def test_a_choice_that_is_not_made_is_shown_as_such_and_never_as_nothing():
    @stage("Where?", makes="place")
    def choose(*, side: Literal["left", "right"] | None = None):
        return side

    form = Form(choose.stage)
    control = form.fields["side"].control
    assert (control.label, form.values()) == ("not set", {"side": None})
    form.set(side="right")
    assert (control.label, form.values()) == ("right", {"side": "right"})
    form.set(side=None)
    assert (control.label, form.values()) == ("not set", {"side": None})
