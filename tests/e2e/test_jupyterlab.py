"""The stage notebooks and the workbench in a real JupyterLab, as a person meets them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlworkbench.app.lab import copy_notebooks

MLWORKBENCH = str(Path(sys.executable).with_name("mlworkbench"))
GATES = {"holds": "roc_auc >= 0.8\nroc_auc.low >= 0.75", "does not hold": "accuracy >= 0.9999"}


@pytest.fixture(scope="session")
def stages(lab):
    """The stage notebooks, copied as `mlworkbench lab` copies them."""
    copy_notebooks(lab.notebooks)
    return lab


def newest_record(lab, stage):
    """The record of the newest run of a stage in the server's workspace."""
    found = sorted((lab.root / "workspace" / "runs").glob(f"*/{stage}.json"), key=os.path.getmtime)
    return json.loads(found[-1].read_text(encoding="utf-8"))


def shown_outputs(outputs):
    """Tables and figures among the outputs of a notebook."""
    kinds = ("text/html", "image/svg+xml")
    return [{k: "".join(o["data"][k]) for k in kinds if k in o["data"]}
            for o in outputs if o["output_type"] == "display_data"]


def test_the_evaluate_notebook_is_run_read_changed_and_run_again(stages, open_lab):
    lab = open_lab("1_evaluate.ipynb")
    lab.run_all(timeout_s=180)
    panel = lab.panel()
    assert lab.problems() == []
    lab.verdict("passed")
    lab.shot("evaluate-light", panel)
    lab.set("Gate", GATES["does not hold"])
    lab.press("Run evaluate")
    lab.verdict("failed", timeout_s=180)
    assert "accuracy >= 0.9999" in panel.locator(".mlw-reasons").inner_text()
    lab.shot("evaluate-light-failed", panel)
    lab.set("Gate", GATES["holds"])
    lab.press("Run evaluate")
    lab.verdict("passed", timeout_s=180)
    assert panel.locator(".mlw-result svg").count() >= 2
    lab.theme("dark")
    lab.shot("evaluate-dark", panel)
    assert lab.problems() == []
    assert newest_record(stages, "evaluate")["parameters"]["gate"] == GATES["holds"].splitlines()


def test_run_all_and_the_command_line_give_equal_summary_tables_and_figures(stages, open_lab, tmp_path):
    lab = open_lab("1_evaluate.ipynb")
    lab.run_all(timeout_s=180)
    seen, summary = shown_outputs(lab.all_outputs()), newest_record(stages, "evaluate")["summary"]
    command = [MLWORKBENCH, "evaluate", "--out", str(tmp_path)]
    subprocess.run(command, env=stages.environment(), cwd=tmp_path, check=True, capture_output=True, timeout=300)
    executed = json.loads((tmp_path / "evaluate.ipynb").read_text(encoding="utf-8"))
    headless = shown_outputs([o for cell in executed["cells"] for o in cell.get("outputs", [])])
    assert json.loads((tmp_path / "evaluate.json").read_text(encoding="utf-8"))["summary"] == summary
    assert len(seen) >= 3 and seen == headless


@pytest.fixture
def undeployed(stages):
    """End what the test deployed, also when it failed."""
    yield
    for folder in (stages.root / "workspace" / "deployments").glob("*"):
        subprocess.run([MLWORKBENCH, "stop", folder.name], env=stages.environment(), timeout=120, check=False)


def test_each_stage_notebook_shows_its_panel_on_run_all(stages, open_lab, undeployed):
    for path in sorted(stages.notebooks.glob("[1-9]_*.ipynb")):
        stage = path.stem[2:]
        lab = open_lab(path.name)
        lab.run_all(timeout_s=300)
        # here without an engine: the panel shows the plan and what is missing, and the last cell says so again
        missing = stage == "containerize"
        assert len(lab.problems()) == missing and all("MissingPart" in p for p in lab.problems()), stage
        lab.shot(f"stage-{stage}", lab.panel())
        word = lab.panel().locator(".mlw-head .mlw-chip").inner_text()
        record = newest_record(stages, stage)
        assert (word, record["status"]) == (("not completed", "error") if missing else ("passed", "passed")), stage


def test_the_deploy_panel_plans_asks_runs_and_shows_what_runs(stages, open_lab, undeployed):
    lab = open_lab("4_deploy.ipynb")
    lab.run_all(timeout_s=300)
    lab.verdict("passed")
    panel = lab.panel()
    row = panel.locator(".mlw-boardrow").first
    row.locator(".mlw-chip", has_text=re.compile("^running$")).wait_for()
    lab.press("Show plan")
    panel.locator(".mlw-ahead", has_text="nothing was done yet").wait_for()
    lab.shot("deploy-plan-light", panel)
    lab.set("Workers", "2")
    lab.press("Run deploy")
    panel.locator(".mlw-main .mlw-ask", has_text="in place of the one that runs").wait_for()
    lab.page.wait_for_function("() => document.activeElement.textContent === 'Leave it'")
    lab.shot("deploy-asks-light", panel)
    assert lab.hard_to_read(panel) == [] and lab.clipped(panel) == []
    lab.page.keyboard.press("Enter")
    panel.locator(".mlw-main .mlw-ask").wait_for(state="hidden")
    lab.press("Where should it run", panel)
    lab.set("Requests per s", "50", panel)
    lab.shot("deploy-questions-light", panel)
    lab.press("Try it", row)
    row.locator(".mlw-outcome h4", has_text="It answers").wait_for()
    lab.shot("deploy-try-it-light", panel)
    lab.press("Stop", row)
    row.locator(".mlw-ask", has_text="Nobody answers").wait_for()
    lab.theme("dark")
    lab.shot("deploy-stop-dark", panel)
    assert lab.hard_to_read(panel) == [] and lab.clipped(panel) == []
    lab.press("Go on", row)
    row.locator(".mlw-said", has_text="was stopped").wait_for()
    row.locator(".mlw-chip", has_text=re.compile("^stopped$")).wait_for()
    assert row.get_by_role("button", name="Try it").is_disabled()
    lab.page.set_viewport_size({"width": 620, "height": 1000})
    assert lab.clipped(panel) == []
    lab.shot("deploy-stopped-narrow-dark", panel)
    assert lab.problems() == []


WORKBENCH = [
    "import mlworkbench as mlw\nfrom mlworkbench.app.demo import demo_model\nmodel, X, y = demo_model()",
    'mlw.Workbench(model, X, y, name="census")',
]


def test_the_workbench_leads_from_the_evaluation_to_the_bundle(lab, open_lab):
    page = open_lab(lab.write("workbench.ipynb", WORKBENCH))
    page.run_all(timeout_s=180)
    stepper = page.panel(".mlw-stepper")
    page.shot("workbench-light-ready", stepper)
    page.set("Gate", GATES["holds"], within=stepper.locator(".mlw-panel").first)
    stepper.get_by_role("button", name="Run evaluate").click()
    stepper.get_by_role("button", name="Continue with bundle").click()
    stepper.get_by_role("button", name="Run bundle").wait_for()
    page.shot("workbench-light-bundle", stepper)
    stepper.get_by_role("button", name="Evaluate", exact=False).first.click()
    page.shot("workbench-light", stepper)
    page.theme("dark")
    page.shot("workbench-dark", stepper)
    assert stepper.locator(".mlw-head .mlw-chip").first.inner_text() == "1 of 5 done"
    assert page.problems() == []
