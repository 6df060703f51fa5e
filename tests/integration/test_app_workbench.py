"""The workbench driven without a browser: a model in memory, through its steps, to a running service."""

import pytest

from mlworkbench.app.demo import demo_model
from mlworkbench.app.workbench import Workbench


@pytest.fixture(scope="module")
def model():
    return demo_model()


@pytest.fixture
def workbench(model, place, monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_ENVIRONMENT", "current")
    made = Workbench(*model, name="census")
    yield made
    if "deploy" in made.results:
        made.results["deploy"].stop()


def press(workbench, name):
    workbench[name].view.run.click()
    assert workbench[name].wait(300)
    return workbench[name]


def test_a_model_in_memory_is_evaluated_bundled_deployed_and_monitored(workbench, model):
    workbench["evaluate"].form.set(gate=["roc_auc >= 0.8"])
    for name in ("evaluate", "bundle", "deploy"):
        assert press(workbench, name).state == "passed", workbench[name].message
    tag = workbench.results["bundle"].artifacts()["tag"]
    assert workbench["deploy"].form.values()["bundle"] == tag and tag.startswith("census:")
    answers = workbench.results["deploy"].predict(model[1].head(5))
    assert list(answers["prediction"]) == list(model[0].predict(model[1].head(5)))
    assert workbench["monitor"].form.values()["deployment"] == workbench.results["deploy"].name
    assert press(workbench, "monitor").state == "passed", workbench["monitor"].message
    assert repr(workbench) == "Workbench('census', 4 of 5 done)"


def test_a_gate_that_does_not_hold_and_a_misspelt_metric_are_told_in_the_panel(workbench):
    workbench["evaluate"].form.set(gate=["accuracy >= 0.9999"])
    panel = press(workbench, "evaluate")
    assert panel.state == "failed" and "accuracy >= 0.9999" in panel.message
    panel.form.set(gate=["acuracy >= 0.5"])
    press(workbench, "evaluate")
    assert panel.state == "error" and panel.result is None and "Did you mean 'accuracy'" in panel.message
    assert workbench.results == {}
