"""A panel and a stepper of toy stages in a real JupyterLab: what the unit tests cannot see."""

import shutil
from pathlib import Path

import pytest

PANEL = '''
from toy_stage import evaluate
from mlworkbench.panels.stage_panel import StagePanel
panel = StagePanel(evaluate, values={"gate": ["roc_auc >= 0.8", "f1.low >= 0.85"]})
panel
'''
STEPPER = '''
from dataclasses import replace
from toy_stage import evaluate
from mlworkbench.core.stages import Stage
from mlworkbench.panels.stage_panel import StagePanel
from mlworkbench.panels.stepper import Stepper
names = {"evaluate": "Is the model good enough to ship?", "bundle": "What exactly is shipped?",
         "containerize": "Does it run anywhere?", "deploy": "Is it up, and does it answer as it should?",
         "monitor": "Is it still good?"}
given = {"model": "HistGradientBoostingClassifier, in memory", "data": "8,000 rows, in memory", "target": "label"}
panels = [StagePanel(replace(evaluate.stage, name=n, question=q), given=given) for n, q in names.items()]
stepper = Stepper(panels, title="churn", subtitle="HistGradientBoostingClassifier on 8,000 rows")
stepper
'''


@pytest.fixture
def toy(lab):
    """A module with a toy stage beside the notebooks (a class of a running notebook would be its own)."""
    shutil.copy(Path(__file__).with_name("toy_stage.py"), lab.notebooks)
    return lab


def test_a_panel_is_filled_in_run_and_read_in_the_browser(toy, open_lab):
    lab = open_lab(toy.write("panel.ipynb", [PANEL]))
    lab.run_all()
    panel = lab.panel()
    lab.shot("panel-light-ready")
    lab.set("Gate", "roc_auc >= 0.99")
    lab.press("Run evaluate")
    lab.verdict("running")
    lab.shot("panel-light-running")
    lab.verdict("failed")
    assert "roc_auc >= 0.99 does not hold" in panel.locator(".mlw-reasons").inner_text()
    lab.set("Gate", "roc_auc >= 0.8\nf1.low >= 0.85")
    lab.press("Run evaluate")
    lab.verdict("passed")
    lab.shot("panel-light")
    lab.shot("panel-light-whole", panel)
    assert lab.hard_to_read(panel) == [] and lab.clipped(panel) == []
    lab.theme("dark")
    assert lab.hard_to_read(panel) == []
    lab.shot("panel-dark")
    lab.shot("panel-dark-whole", panel)
    assert lab.problems() == []


def test_a_narrow_panel_stands_in_one_column(toy, open_lab):
    lab = open_lab(toy.write("narrow.ipynb", [PANEL]), width=800, height=1000)
    lab.run_all()
    lab.press("Run evaluate")
    lab.verdict("passed")
    panel = lab.panel()
    side, main = (panel.locator(s).bounding_box() for s in (".mlw-side", ".mlw-main"))
    lab.shot("panel-narrow-whole", panel)
    assert lab.clipped(panel) == []
    assert main["y"] >= side["y"] + side["height"] - 1 and abs(main["width"] - side["width"]) < 2


def test_wrong_input_is_said_in_words_beside_its_field(toy, open_lab):
    lab = open_lab(toy.write("wrong.ipynb", [PANEL]))
    lab.run_all()
    panel = lab.panel()
    lab.press("More options")
    lab.set("Confidence", "2")
    panel.locator(".mlw-field-confidence [role=alert]").wait_for()
    lab.press("Run evaluate")
    panel.locator(".mlw-main [role=alert]").wait_for()
    lab.shot("panel-light-wrong", panel)
    lab.set("Confidence", "")
    lab.set("Model", "missing.skops")
    lab.press("Run evaluate")
    lab.verdict("not completed")
    assert "The file must be there" in panel.locator(".mlw-field-model [role=alert]").inner_text()
    lab.shot("panel-light-error", panel)


def test_cancel_stops_the_work_while_the_kernel_stays_free(toy, open_lab):
    lab = open_lab(toy.write("cancel.ipynb", [PANEL]))
    lab.run_all()
    lab.set("Model", "slow")
    lab.press("Run evaluate")
    lab.verdict("running")
    lab.press("Cancel")
    lab.verdict("cancelled", timeout_s=10)
    lab.shot("panel-light-cancelled", lab.panel())


def test_the_log_follows_its_last_line_and_lets_a_reader_scroll_up(toy, open_lab):
    lab = open_lab(toy.write("log.ipynb", [PANEL]))
    lab.run_all()
    lab.set("Model", "chatty")
    lab.press("Run evaluate")
    log = lab.panel().locator(".mlw-log")
    reached = "([e, n]) => e.textContent.includes(`line ${n}`)"
    lab.page.wait_for_function(reached, arg=[log.element_handle(), 60])
    last = log.evaluate("e => { const r = document.createRange(), t = e.querySelector('pre').lastChild;"
                        " r.selectNodeContents(t); return r.getBoundingClientRect().bottom; }")
    box = log.bounding_box()
    assert box["y"] < last <= box["y"] + box["height"]
    log.evaluate("e => e.scrollBy(0, -90)")
    lab.page.wait_for_function(reached, arg=[log.element_handle(), 140])
    assert log.evaluate("e => e.scrollTop") <= -90
    lab.press("Cancel")
    lab.verdict("cancelled", timeout_s=10)


def test_a_stepper_is_walked_with_the_keyboard(toy, open_lab):
    lab = open_lab(toy.write("stepper.ipynb", [STEPPER]))
    lab.run_all()
    stepper = lab.panel(".mlw-stepper")
    lab.shot("stepper-light-ready")
    run = stepper.get_by_role("button", name="Run evaluate")
    run.focus()
    lab.page.keyboard.press("Space")
    stepper.get_by_role("button", name="Continue with bundle").wait_for()
    lab.shot("stepper-light")
    lab.shot("stepper-light-whole", stepper)
    assert lab.hard_to_read(stepper) == [] and lab.clipped(stepper) == []
    stepper.locator(".mlw-step").nth(1).focus()
    lab.page.keyboard.press("Enter")
    stepper.get_by_role("button", name="Run bundle").wait_for()
    lab.theme("dark")
    assert lab.hard_to_read(stepper) == []
    lab.shot("stepper-dark")
    lab.page.set_viewport_size({"width": 620, "height": 1000})
    assert lab.clipped(stepper) == []
    lab.shot("stepper-dark-narrow", stepper)
    assert stepper.locator(".mlw-head .mlw-chip").first.inner_text() == "1 of 5 done"
