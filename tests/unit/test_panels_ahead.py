"""What a stage panel does before a run: the plan, the question, the advice; driven without a browser."""

import threading
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
from pydantic import Field

from mlworkbench.core.errors import InputError, MissingPart, NotFound, problem
from mlworkbench.core.jobs import report
from mlworkbench.core.results import Result
from mlworkbench.core.stages import OneOf, stage
from mlworkbench.panels.adviser import Adviser
from mlworkbench.panels.stage_panel import StagePanel

HOSTILE = "<img src=x onerror=alert(1)>"


@dataclass(frozen=True, kw_only=True, repr=False)
class Moved(Result):
    stage: ClassVar[str] = "move"
    boxes: int = 0

    def headline(self):
        return f"{self.boxes} boxes {HOSTILE}"


def plan(boxes, place, shelf):
    if place == "nowhere":
        raise NotFound(problem("move: place", "it must be there", place))
    if place == "locked":
        raise MissingPart(problem("move", "a key must be there", "none"))
    if place == "far":
        for step in range(10_000):
            report(f"step {step}")
            threading.Event().wait(0.002)
    return Moved(name=place, status="skipped", boxes=boxes)


@stage("Is it moved?", makes="shelf", plan=plan)
def move(*, boxes: Annotated[int, Field(ge=1, le=99)] = 3, place: str = "cellar",
         shelf: Annotated[str, OneOf(("left", "right"))] = "left"):
    if place == "nowhere":
        raise NotFound(problem("move: place", "it must be there", place))
    return Moved(name=place, boxes=boxes)


@stage("How many?", makes="advice")
def count(*, place: str = "cellar", people: Annotated[int, Field(ge=1)] = 1):
    if people > 50:
        raise InputError("count: people: fewer must come")
    return Moved(name=place, boxes=2 * people)


@pytest.fixture
def panel():
    adviser = Adviser("How many?", count.stage, lambda told: {"boxes": told.boxes, "shelf": "middle"}, ("place",))
    made = StagePanel(move, asks=lambda plan: f"Replace {HOSTILE} by {plan.boxes}?" if plan.boxes > 5 else "", adviser=adviser)
    yield made
    made.cancel()
    assert made.wait(10)


def press(panel, button):
    button.click()
    assert panel.wait(10)


def test_a_plan_is_shown_as_a_plan_and_the_run_is_the_next_step(panel):
    press(panel, panel.view.plan)
    assert panel.planned == Moved(name="cellar", status="skipped", boxes=3)
    assert panel.result is None and panel.state == "ready" and panel.message == ""
    shown = panel.view.result.value
    assert "nothing was done yet" in shown and "Press “Run move”" in shown and ">skipped<" not in shown and HOSTILE not in shown
    press(panel, panel.view.run)
    assert panel.result.boxes == 3 and panel.planned is None and "nothing was done" not in panel.view.result.value


def test_a_plan_leaves_the_former_result_and_state_alone_and_tells_no_watcher(panel):
    press(panel, panel.view.run)
    heard = []
    panel.watch(lambda changed: heard.append(changed.state))
    press(panel, panel.view.plan)
    assert panel.state == "passed" and panel.result.boxes == 3 and heard == []


def test_a_run_that_would_replace_something_shows_the_plan_and_asks(panel):
    panel.form.set(boxes=9)
    press(panel, panel.view.run)
    assert panel.question == panel.message == f"Replace {HOSTILE} by 9?" and panel.result is None and panel.state == "ready"
    assert "&lt;img" in panel.view.asked.words.value and panel.planned.boxes == 9
    assert panel.run() is None  # it is asked already
    press(panel, panel.view.asked.no)
    assert panel.question == "" and panel.result is None and "nothing was done" in panel.message
    assert panel.go_on() is None
    press(panel, panel.view.run)
    panel.form.set(boxes=8)
    press(panel, panel.view.asked.yes)
    assert panel.result.boxes == 9 and panel.question == ""  # what was asked for, whatever was typed since


def test_who_has_looked_is_not_asked_unless_the_fields_changed(panel):
    panel.form.set(boxes=9)
    press(panel, panel.view.plan)
    press(panel, panel.view.run)
    assert panel.result.boxes == 9 and panel.question == ""
    press(panel, panel.view.plan)
    panel.form.set(boxes=10)
    press(panel, panel.view.run)
    assert panel.question.endswith("by 10?") and panel.result.boxes == 9


def test_what_replaces_nothing_runs_at_once(panel):
    press(panel, panel.view.run)
    assert panel.state == "passed" and panel.question == "" and panel.planned is None


def test_a_plan_that_cannot_be_made_stops_the_run_and_says_why(panel):
    panel.form.set(place="locked")
    press(panel, panel.view.run)
    assert panel.result is None and panel.message == "move: a key must be there, got none."
    assert "a key must be there" in panel.view.notice.value


def test_where_nothing_is_found_to_plan_with_the_run_itself_says_so(panel):
    panel.form.set(place="nowhere")
    press(panel, panel.view.plan)
    assert panel.state == "ready" and "It must be there" in panel.form.fields["place"].notice.value
    press(panel, panel.view.run)
    assert panel.state == "error" and isinstance(panel.error, NotFound)


def test_a_plan_can_be_cancelled_and_the_panel_stays_free(panel):
    panel.form.set(place="far")
    panel.view.run.click()
    assert panel.state == "planning" and not panel.view.cancel.disabled and panel.plan() is panel.job
    press(panel, panel.view.cancel)
    assert panel.state == "ready" and panel.result is None and panel.planned is None and "cancelled" in panel.message


def test_a_wrong_field_plans_nothing(panel):
    panel.form.fields["boxes"].control.value = "0"
    assert panel.plan() is None and panel.message.startswith("Boxes: must be greater")


def test_advice_fills_the_form_and_tells_what_it_could_not(panel):
    panel.view.adviser.form.fields["people"].control.value = "4"
    press(panel, panel.view.adviser.button)
    assert panel.form.values() == {"boxes": 8, "place": "cellar", "shelf": "left"} and panel.advice.boxes == 8
    assert panel.message.startswith("Filled in: boxes. shelf: ") and panel.result is None
    assert "This is advice: nothing was done yet." in panel.view.result.value and HOSTILE not in panel.view.result.value


def test_advice_that_cannot_be_given_says_why_and_fills_nothing(panel):
    panel.view.adviser.form.fields["people"].control.value = "0"
    assert panel.consult() is None and panel.message.startswith("People: must be greater")
    panel.view.adviser.form.set(people=60)
    press(panel, panel.view.adviser.button)
    assert panel.message == "count: people: fewer must come" and panel.advice is None and panel.form.values()["boxes"] == 3


def test_a_stage_without_a_plan_has_no_such_button():
    panel = StagePanel(count)
    assert panel.view.plan not in panel.view.widget.children[2].children[0].children[-2].children
    assert not hasattr(panel.view.adviser, "form")


def test_headless_nothing_is_asked_and_what_stands_below_is_on_the_page(monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_HEADLESS", "1")

    class Below:
        def html(self):
            return "<p>below</p>"

    panel = StagePanel(move, result=Moved(boxes=9), asks=lambda _: pytest.fail("nobody is there"), below=Below())
    assert panel._repr_mimebundle_()["text/html"].endswith("<p>below</p></div>") and "view" not in vars(panel)
