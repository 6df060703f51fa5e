"""The stage panel driven without a browser: set values, press, and see `result` and `message`."""

import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import pandas as pd
import pytest
from pydantic import Field

from mlworkbench.core.errors import InputError, MissingPart, problem
from mlworkbench.core.evidence import Evidence
from mlworkbench.core.jobs import report
from mlworkbench.core.results import Result
from mlworkbench.core.stages import stage
from mlworkbench.panels.progress import SHOWN_LINES, bar_html, duration, log_html
from mlworkbench.panels.stage_panel import StagePanel
from mlworkbench.panels.style import STYLE, themed

MIME = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True, kw_only=True, repr=False)
class Counted(Result):
    stage: ClassVar[str] = "count"
    rows: int = 0

    def tiles(self):
        return {"Rows": self.rows}

    def evidence(self):
        figure = "<svg viewBox='0 0 9 9'><path style='stroke: #767676' d='M0 0L9 9'/></svg>"
        return [Evidence("Table", table=pd.DataFrame({"rows": [self.rows]})), Evidence("Figure", svg=figure)]


@stage("Are there enough rows?", makes="evaluation")
def count(*, rows: Annotated[int, Field(ge=1, le=100_000)] = 3, gate: list[str] | None = None, file: str = "latest"):
    if file == "none":
        raise InputError(problem("count: file", "the file must be there", repr(file), "Give a path"))
    if file == "engine":
        raise MissingPart(problem("count", "an engine must be there", "none"))
    if file == "fault":
        raise KeyError("shape")
    report("counting <rows>")
    for row in range(rows):
        report(f"row {row + 1} of {rows}", (row + 1) / rows)
        time.sleep(0.002)
    enough = rows >= 2
    return Counted(rows=rows, status="passed" if enough else "failed", reasons=() if enough else ("Too few rows.",))


@pytest.fixture
def panel():
    made = StagePanel(count)
    yield made
    made.cancel()
    assert made.wait(10)


def press(panel):
    panel.view.run.click()
    assert panel.wait(10)


def test_a_press_runs_the_stage_with_what_stands_in_the_form(panel):
    panel.form.fields["rows"].control.value = "7"
    press(panel)
    assert panel.result == Counted(rows=7) and panel.state == "passed" and panel.message == ""
    assert ">passed</span>" in panel.view.head.value
    assert "width:100%" in panel.view.progress.bar.value and "counting &lt;rows&gt;" in panel.view.progress.log.value


def test_the_result_is_shown_verdict_first_then_figures_then_evidence(panel):
    press(panel)
    shown = panel.view.result.value
    places = [shown.index(mark) for mark in ("mlw-verdict", "mlw-tile", "mlw-table", "<svg")]
    assert places == sorted(places)
    assert "var(--mlw-dim, #767676)" in shown


def test_a_gate_that_does_not_hold_is_a_result_with_its_reason(panel):
    panel.form.set(rows=1)
    press(panel)
    assert panel.state == "failed" and panel.result.rows == 1 and panel.message == "Too few rows."
    assert panel.error is None and panel.view.notice.value == ""


def test_a_wrong_field_starts_nothing_and_keeps_the_last_result(panel):
    press(panel)
    panel.form.fields["rows"].control.value = "0"
    assert panel.run() is None
    assert panel.message.startswith("Rows: must be greater than or equal to 1")
    assert panel.result == Counted(rows=3) and panel.state == "passed"
    assert "role='alert'" in panel.view.notice.value
    panel.form.fields["rows"].control.value = "4"
    press(panel)
    assert panel.result.rows == 4 and panel.message == "" and panel.view.notice.value == ""


def test_wrong_input_found_by_the_stage_is_told_and_shown_beside_its_field(panel):
    panel.form.set(file="none")
    press(panel)
    assert panel.state == "error" and panel.result is None
    assert panel.message == "count: file: the file must be there, got 'none'. Give a path."
    assert "The file must be there" in panel.form.fields["file"].notice.value


def test_a_missing_part_is_told_in_the_sentence_of_the_error(panel):
    panel.form.set(file="engine")
    press(panel)
    assert panel.message == "count: an engine must be there, got none." and isinstance(panel.error, MissingPart)


def test_a_fault_of_ours_is_one_line_with_the_traceback_in_the_log(panel):
    panel.form.set(file="fault")
    press(panel)
    assert "fault of the workbench" in panel.message and "KeyError" in panel.message
    assert "Traceback" not in panel.message and "Traceback" in panel.view.progress.log.value
    panel.form.set(file="latest")
    press(panel)
    assert panel.state == "passed"


def test_cancel_stops_the_work_and_the_next_run_starts_fresh(panel):
    panel.form.set(rows=100_000)
    panel.view.run.click()
    assert panel.state == "running" and not panel.view.cancel.disabled
    panel.view.cancel.click()
    assert panel.wait(10) and panel.state == "cancelled" and panel.result is None
    assert "cancelled" in panel.message and panel.view.cancel.disabled
    panel.form.set(rows=2)
    press(panel)
    assert panel.state == "passed"


def test_a_second_press_while_running_starts_nothing(panel):
    calls = []

    def slow(**values):
        calls.append(values)
        time.sleep(0.2)
        return Counted(rows=2)

    panel = StagePanel(count, runner=slow)
    presses = [threading.Thread(target=panel.view.run.click) for _ in range(5)]
    for thread in presses:
        thread.start()
    for thread in presses:
        thread.join()
    assert panel.run() is panel.job
    assert panel.wait(10) and len(calls) == 1


def test_a_press_returns_at_once_while_the_work_goes_on(panel):
    panel.form.set(rows=200)
    panel.run()
    assert panel.state == "running"
    assert all(field.control.disabled for field in panel.form.fields.values())
    assert not panel.wait(0.01)


def test_progress_is_drawn_while_the_work_goes_on(panel):
    drawn = []
    panel.view.progress.bar.observe(lambda change: drawn.append(change["new"]), names="value")
    panel.form.set(rows=250)
    press(panel)
    shares = [text for text in drawn if "aria-valuenow" in text]
    assert 2 <= len(shares) <= 20 and "row " in shares[0]


def test_a_runner_stands_in_for_the_stage_and_gets_only_what_is_not_given():
    got = []

    def runner(extra, **values):
        got.append((extra, values))
        return Counted(rows=5)

    panel = StagePanel(count, runner=partial(runner, "memory"), given={"file": "8,000 rows, in memory"})
    press(panel)
    assert got == [("memory", {"rows": 3, "gate": None})] and panel.result.rows == 5


def test_watchers_hear_each_change_and_one_that_fails_does_not_keep_the_panel_running(panel, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    heard = []

    def watch(changed):
        heard.append(changed.state)
        if changed.state == "passed":
            raise RuntimeError("a watcher's own fault")

    panel.watch(watch)
    press(panel)
    assert heard == ["running", "passed"] and panel.state == "passed" and panel.view.cancel.disabled


def test_a_panel_can_start_with_a_result_and_values():
    panel = StagePanel(count.stage, result=Counted(rows=9), values={"rows": 9})
    assert panel.state == "passed" and panel.form.values()["rows"] == 9
    assert "<b>9</b>" in panel.view.result.value


def test_live_it_shows_a_widget_with_plain_html_beside(panel, monkeypatch):
    monkeypatch.delenv("MLWORKBENCH_HEADLESS", raising=False)
    monkeypatch.setattr("sys.argv", ["ipykernel_launcher.py"])
    bundle = panel._repr_mimebundle_()
    assert set(bundle) == {MIME, "text/html", "text/plain"}


@pytest.mark.parametrize("how", ["variable", "papermill"])
def test_headless_it_is_plain_html_and_makes_no_widget(how, monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_HEADLESS", "1" if how == "variable" else "0")
    monkeypatch.setattr("sys.argv", ["k.py", "--HistoryManager.hist_file=:memory:"] if how == "papermill" else ["k.py"])
    panel = StagePanel(count, result=Counted(rows=9), values={"rows": 9, "gate": ["a <b> >= 1"]})
    bundle = panel._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert "view" not in vars(panel) and "form" not in vars(panel)
    assert "mlw-passed" in bundle["text/html"] and "a &lt;b&gt; &gt;= 1" in bundle["text/html"]


def test_what_a_message_says_is_text_and_never_markup():
    def fail(**values):
        raise InputError("file: <img src=x onerror=alert(1)> must not be there")

    panel = StagePanel(count, runner=fail)
    press(panel)
    assert "<img" not in panel.view.notice.value and "&lt;img" in panel.view.notice.value


def test_the_log_keeps_its_last_lines_and_escapes_them():
    text = log_html([(0.0, f"<line {i}>") for i in range(SHOWN_LINES + 5)])
    assert text.startswith("<pre>… 5 earlier lines") and "&lt;line 304&gt;" in text and "&lt;line 4&gt;" not in text


def test_a_bar_without_an_estimate_says_no_value():
    assert "aria-valuenow" not in bar_html(None, "running", "Count") and "mlw-unknown" in bar_html(None, "running", "Count")
    assert "width:100%" in bar_html(1.7, "running", "Count")


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3725, "62 min 05 s")])
def test_a_duration_reads_as_a_person_says_it(seconds, text):
    assert duration(seconds) == text


def test_the_style_sheet_asks_for_nothing_and_stays_in_its_class():
    assert "http" not in STYLE and "@import" not in STYLE and "url(" not in STYLE
    for line in STYLE.splitlines():
        if "{" in line and not line.startswith((" ", "@")):
            assert ".mlw" in line.split("{")[0]


def test_a_word_in_a_tile_is_set_smaller_than_a_figure():
    assert themed("<b>12,480</b><b>python:3.11-slim</b>") == "<b>12,480</b><b class='mlw-long'>python:3.11-slim</b>"


def test_only_the_house_grey_is_replaced():
    assert themed("fill: #767676; stroke: #7676760a") == "fill: var(--mlw-dim, #767676); stroke: #7676760a"
