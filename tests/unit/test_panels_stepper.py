"""The stepper driven without a browser."""

import time
from dataclasses import dataclass
from typing import ClassVar

import pytest

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.core.results import Result
from mlworkbench.core.stages import stage
from mlworkbench.panels.stage_panel import StagePanel
from mlworkbench.panels.stepper import Stepper


@dataclass(frozen=True, kw_only=True, repr=False)
class Found(Result):
    stage: ClassVar[str] = "weigh"


@stage("How heavy is it?", makes="evaluation")
def weigh(*, name: str = "stone", status: str = "passed"):
    time.sleep(0.01)
    if status == "fault":
        raise InputError("weigh: name: it must be there")
    return Found(name=name, status=status, reasons=("No scale.",) if status != "passed" else ())


@stage("Does it fit?", makes="bundle")
def box(*, content: str = "latest"):
    return Found(name=content)


@stage("Is it there?", makes="report")
def send(*, content: str = "latest"):
    return Found(name=content)


@pytest.fixture
def fed():
    return []


@pytest.fixture
def stepper(fed):
    def feed(finished, later):
        fed.append((finished.stage.name, finished.result.status, list(later)))
        if finished.result.status == "passed" and "box" in later:
            later["box"].form.set(content=finished.result.name)

    return Stepper([StagePanel(weigh), StagePanel(box), StagePanel(send)], title="Stones", subtitle="two <b>", feed=feed)


def run(stepper, name):
    stepper[name].view.run.click()
    assert stepper[name].wait(10)


def marks(stepper):
    return [next(c for c in b._dom_classes if c not in ("mlw-step", "mlw-current")) for b in stepper.view.steps.buttons]


def test_it_starts_at_the_first_step_with_nothing_done(stepper):
    assert stepper.current == 0 and stepper.done == 0 and marks(stepper) == ["mlw-ready"] * 3
    assert "0 of 3 done" in stepper.view.head.value and "two &lt;b&gt;" in stepper.view.head.value
    assert stepper.view.foot.layout.display == "none"


def test_a_finished_step_is_ticked_feeds_the_later_ones_and_offers_the_next(stepper, fed):
    stepper["weigh"].form.set(name="flint")
    run(stepper, "weigh")
    assert fed == [("weigh", "passed", ["box", "send"])]
    assert stepper["box"].form.values() == {"content": "flint"}
    assert stepper.done == 1 and marks(stepper)[0] == "mlw-passed" and "1 of 3 done" in stepper.view.head.value
    assert stepper.view.foot.layout.display is None and stepper.view.next.description == "Continue with box"
    stepper.view.next.click()
    assert stepper.current == 1 and stepper.view.stack.selected_index == 1


def test_a_press_on_a_step_shows_its_panel(stepper):
    stepper.view.steps.buttons[2].click()
    assert stepper.current == 2 and stepper.view.stack.selected_index == 2
    assert ["mlw-current" in b._dom_classes for b in stepper.view.steps.buttons] == [False, False, True]


def test_each_state_is_said_in_words_too(stepper):
    stepper["weigh"].form.set(status="failed")
    run(stepper, "weigh")
    assert stepper.view.steps.buttons[0].tooltip == "Step 1 of 3: failed"
    assert marks(stepper)[0] == "mlw-failed" and stepper.done == 0


def test_a_failed_or_faulty_step_offers_no_next_one_and_a_fault_feeds_nothing(stepper, fed):
    stepper["weigh"].form.set(status="fault")
    run(stepper, "weigh")
    assert fed == [] and marks(stepper)[0] == "mlw-error" and stepper.view.foot.layout.display == "none"


def test_a_skipped_step_counts_as_done(stepper):
    stepper["weigh"].form.set(status="skipped")
    run(stepper, "weigh")
    assert stepper.done == 1 and marks(stepper)[0] == "mlw-skipped" and stepper.view.foot.layout.display is None


def test_running_a_step_again_makes_the_later_findings_outdated(stepper):
    for name in ("weigh", "box", "send"):
        run(stepper, name)
    assert stepper.done == 3
    run(stepper, "box")
    assert stepper.done == 2 and marks(stepper) == ["mlw-passed", "mlw-passed", "mlw-outdated"]
    assert "before an earlier step was run again" in stepper.view.steps.buttons[2].tooltip
    run(stepper, "send")
    assert stepper.done == 3


def test_a_step_that_is_not_there_is_refused(stepper):
    with pytest.raises(InputError, match=r"0\.\.2"):
        stepper.select(3)
    with pytest.raises(NotFound, match="Did you mean 'weigh'"):
        stepper["wiegh"]
    with pytest.raises(InputError, match="at least one step"):
        Stepper([], title="Nothing")


def test_headless_it_shows_all_steps_one_under_the_other_without_widgets(monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_HEADLESS", "1")
    panels = [StagePanel(weigh, result=Found(name="flint")), StagePanel(box)]
    stepper = Stepper(panels, title="Stones")
    bundle = stepper._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"} and "view" not in vars(stepper)
    assert bundle["text/html"].count("<style>") == 1 and "1 of 2 done" in bundle["text/html"]
    assert bundle["text/plain"] == "Stepper('Stones', weigh: passed, box: ready)"
