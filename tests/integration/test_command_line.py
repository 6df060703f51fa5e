"""The command line's contract: files, exit codes, one clear message."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

MLWORKBENCH = str(Path(sys.executable).with_name("mlworkbench"))


def call(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command line; it inherits the test's workspace and folder."""
    return subprocess.run([MLWORKBENCH, *arguments], capture_output=True, text=True, timeout=300,
                          env={**os.environ, **environ})


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a person reads on the error stream, without the progress."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in done.stderr.splitlines()]
    return "\n".join(line for line in lines if not re.match(r"\d\d:\d\d:\d\d ", line))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A model, its data, and everything that is wrong with other files."""
    import joblib
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    from mlworkbench.model.loading import save_model

    folder = tmp_path_factory.mktemp("files")
    frame = pd.DataFrame({"age": range(200), "income": [i * 7 % 100 for i in range(200)]}, dtype=float)
    surprising = frame.index % 9 == 0  # no model of two columns gets these right
    frame["left"] = (((frame["age"] + frame["income"]) > 140) ^ surprising).map({True: "yes", False: "no"})
    model = LogisticRegression(max_iter=1000).fit(frame[["age", "income"]], frame["left"])
    save_model(model, folder / "model.skops")
    joblib.dump(model, folder / "model.joblib")
    frame.to_csv(folder / "rows.csv", index=False)
    frame.rename(columns={"income": "incme"}).to_csv(folder / "misspelt.csv", index=False)
    frame.drop(columns="income").to_csv(folder / "missing.csv", index=False)
    frame.assign(extra=1).to_csv(folder / "extra.csv", index=False)
    frame.assign(income="much").to_csv(folder / "words.csv", index=False)
    frame.head(0).to_csv(folder / "empty.csv", index=False)
    frame.drop(columns="left").to_csv(folder / "unlabelled.csv", index=False)
    (folder / "nothing.csv").write_text("")
    (folder / "broken.parquet").write_text("no parquet")
    (folder / "broken.skops").write_text("no model")
    return folder


def evaluate(files: Path, *more: str, model: str = "model.skops", data: str = "rows.csv", target: str = "left"):
    return call("evaluate", "--model", str(files / model), "--data", str(files / data), "--target", target,
                "--resamples", "50", *more)


def test_a_passed_stage_leaves_notebook_page_and_record(files, place, tmp_path):
    done = evaluate(files, "--gate", "accuracy >= 0.5", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "evaluate.json").read_text())
    assert (record["stage"], record["status"], record["error"]) == ("evaluate", "passed", None)
    assert {"started", "seconds", "parameters", "summary", "artifacts"} <= set(record)
    assert record["parameters"]["confidence"] == 0.95
    assert "settings" in record["origins"]["confidence"]
    page = (tmp_path / "out" / "evaluate.html").read_text()
    assert "<svg" in page or "data:image/svg" in page
    assert not re.findall(r"(?:src|href)=\"https?://[^\"]*\"", page)
    assert not re.findall(r"@import|url\(['\"]?https?:|import\(['\"]https?:", page)
    notebook = json.loads((tmp_path / "out" / "evaluate.ipynb").read_text())
    assert "widgets" not in notebook["metadata"]
    left = sorted(p.name for p in (tmp_path / "out").glob("evaluate.*"))
    assert left == [f"evaluate.{end}" for end in ("html", "ipynb", "json", "junit.xml", "log", "md")]
    assert (tmp_path / "out" / "model_card.md").read_text().startswith("---\n")


def test_a_failed_gate_ends_with_1_and_all_evidence(files, place, tmp_path):
    done = evaluate(files, "--gate", "accuracy >= 0.99999", "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    record = json.loads((tmp_path / "out" / "evaluate.json").read_text())
    assert record["status"] == "failed" and record["error"] is None and "accuracy" in record["reasons"][0]
    assert (tmp_path / "out" / "evaluate.html").exists()
    last = json.loads((tmp_path / "out" / "evaluate.ipynb").read_text())["cells"][-1]
    assert [len(o["traceback"]) for o in last["outputs"] if o["output_type"] == "error"] == [1]


def test_plain_papermill_gives_0_or_1(files, place, tmp_path):
    from mlworkbench.app.headless import stage_notebook

    def papermill(*more: str) -> int:
        command = [sys.executable, "-m", "papermill", str(stage_notebook("evaluate")), str(tmp_path / "out.ipynb"),
                   "-p", "model", str(files / "model.skops"), "-p", "data", str(files / "rows.csv"), "-p", "target",
                   "left", "-p", "resamples", "50", "-p", "trust", "false", *more]
        return subprocess.run(command, capture_output=True, timeout=300).returncode

    assert papermill("-p", "out", str(tmp_path / "plain")) == 0
    assert json.loads((tmp_path / "plain" / "evaluate.json").read_text())["parameters"]["trust"] is False
    assert papermill("-y", "gate: ['accuracy >= 0.99999']") == 1
    assert papermill("--engine", "mlworkbench", "-p", "modle", "x") == 1


WRONG_FILES = [
    ({"model": "none.skops"}, "none.skops"),
    ({"model": "broken.skops"}, "broken.skops"),
    ({"model": "model.joblib"}, "trust"),
    ({"data": "none.csv"}, "none.csv"),
    ({"data": "misspelt.csv"}, "incme"),
    ({"data": "missing.csv"}, "income"),
    ({"data": "extra.csv"}, "extra"),
    ({"data": "words.csv"}, "much"),
    ({"data": "empty.csv"}, "row"),
    ({"data": "nothing.csv"}, "nothing.csv"),
    ({"data": "broken.parquet"}, "broken.parquet"),
    ({"data": "unlabelled.csv"}, "left"),
    ({"target": "lft"}, "left"),
    ({"gate": ["acuracy >= 0.5"]}, "accuracy"),
    ({"gate": ["accuracy"]}, "accuracy"),
    ({"gate": "[accuracy >= 0.5"}, "gate"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG_FILES, ids=lambda v: str(v)[:40])
def test_wrong_input_is_refused_in_one_sentence_and_nothing_is_kept(files, place, wrong, says):
    from mlworkbench import stages
    from mlworkbench.app.run import run_stage
    from mlworkbench.core.errors import InputError
    from mlworkbench.core.workspace import workspace

    given = {"model": "model.skops", "data": "rows.csv", "target": "left", "resamples": 0, **wrong}
    given |= {k: str(files / given[k]) for k in ("model", "data")}
    with pytest.raises(InputError, match=re.escape(says)) as refused:
        run_stage(stages.evaluate, **given)
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")
    assert workspace().ledger.artifacts("evaluation") == []
    [run] = workspace().ledger.runs("evaluate")
    record = json.loads((Path(run.folder) / "evaluate.json").read_text())
    assert (record["status"], record["error"]["exit_code"]) == ("error", 2)


WRONG_CALLS = [
    ({"data": "misspelt.csv"}, (), "incme"),
    ({"model": "model.joblib"}, (), "trust"),
    ({}, ("--gtae", "accuracy >= 0.5"), "--gate"),
    ({}, ("--resamples", "many"), "resamples"),
    ({}, ("--confidence", "2"), "confidence"),
    ({}, ("--params", "none.yaml"), "none.yaml"),
    ({}, ("--out", "/dev/null/x"), "out"),
]


@pytest.mark.parametrize(("wrong", "more", "says"), WRONG_CALLS, ids=lambda v: str(v)[:40])
def test_wrong_input_ends_with_2_and_one_message(files, place, wrong, more, says):
    done = evaluate(files, *more, **wrong)
    assert done.returncode == 2, done.stderr
    message = said(done)
    assert says in message
    assert "Traceback" not in done.stderr + done.stdout
    assert len(message.strip().splitlines()) <= 3


def test_a_workspace_that_cannot_be_written_ends_with_2(files, place):
    done = call("evaluate", "--model", str(files / "model.skops"), MLWORKBENCH_WORKSPACE="/dev/null/x")
    assert done.returncode == 2 and "MLWORKBENCH_WORKSPACE" in said(done)


def test_a_demo_in_a_workspace_that_cannot_be_written_ends_with_2(place):
    done = call("demo", MLWORKBENCH_WORKSPACE="/dev/null/x")
    assert done.returncode == 2 and "MLWORKBENCH_WORKSPACE" in said(done)


def test_an_evaluation_may_be_named_by_its_path_in_another_workspace(files, place, tmp_path):
    from mlworkbench.stages.bundle_stage import _evaluation

    done = evaluate(files, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    for named in (tmp_path / "out", tmp_path / "out" / "evaluation.json"):
        assert _evaluation(str(named), "latest")[0].name == "model"


def test_a_kernel_that_dies_is_told_as_a_fault_with_a_record(files, place, tmp_path):
    import threading
    import time

    import psutil

    command = [MLWORKBENCH, "evaluate", "--model", str(files / "model.skops"), "--data", str(files / "rows.csv"),
               "--target", "left", "--resamples", "100000", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill_the_kernel() -> None:
        end = time.monotonic() + 60
        while not (tmp_path / "out" / "evaluate.log").exists() and time.monotonic() < end:
            time.sleep(0.05)
        for child in psutil.Process(process.pid).children(recursive=True):
            if "ipykernel" in " ".join(child.cmdline()):
                child.kill()

    killer = threading.Thread(target=kill_the_kernel)
    killer.start()
    _, errors = process.communicate(timeout=120)
    killer.join()
    assert process.returncode == 4, errors
    record = json.loads((tmp_path / "out" / "evaluate.json").read_text())
    assert (record["status"], record["error"]["exit_code"]) == ("error", 4)
    assert (tmp_path / "out" / "error.log").exists() and not list((tmp_path / "out").glob(".*.lock"))


def test_a_misspelt_command_and_a_misspelt_setting_are_refused(place):
    done = call("evalute")
    assert done.returncode == 2 and "evaluate" in said(done)
    done = call("settings", MLWORKBENCH_SERVING_MAX_ROW="1")
    assert done.returncode == 2 and "MLWORKBENCH_SERVING_MAX_ROWS" in said(done)


@pytest.mark.parametrize("arguments", [("bundle", "--evaluation", "run:none"), ("deploy", "--bundle", "none:1"),
                                       ("monitor", "--deployment", "none"), ("stop", "none"), ("logs", "none"),
                                       ("rollback", "none"), ("verify", "none:1"), ("release", "none.yaml")])
def test_what_is_not_there_ends_with_2(place, arguments):
    done = call(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "none" in said(done) and "Traceback" not in done.stderr


@pytest.mark.parametrize(("text", "says"), [("evalute: {}", "evaluate"), ("evaluate: {gtae: [a]}", "gate"),
                                            ("- a", "mapping"), ("evaluate: [", "YAML"), ("name: My Model", "my-model"),
                                            ("deploy: {when: sometimes}", "if_available"), ("bundle: {out: x}", "out")])
def test_a_wrong_release_file_is_refused_before_anything_runs(place, tmp_path, text, says):
    (tmp_path / "release.yaml").write_text(text)
    done = call("release", str(tmp_path / "release.yaml"))
    assert done.returncode == 2 and says in said(done)
    assert not (place / "runs").exists() or not list((place / "runs").iterdir())


def test_two_runs_in_one_folder_at_once_are_refused(files, place, tmp_path):
    from mlworkbench.core.workspace import file_lock

    (tmp_path / "out").mkdir()
    with file_lock(tmp_path / "out" / ".evaluate.lock"):
        done = evaluate(files, "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "one run at a time" in said(done)


def test_ctrl_c_ends_with_130_and_leaves_no_kernel(files, place, tmp_path):
    import signal
    import time

    import psutil

    command = [MLWORKBENCH, "evaluate", "--model", str(files / "model.skops"), "--data", str(files / "rows.csv"),
               "--target", "left", "--resamples", "100000", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    end = time.monotonic() + 60
    while not (tmp_path / "out" / "evaluate.log").exists() and time.monotonic() < end:
        time.sleep(0.05)
    kernels = psutil.Process(process.pid).children(recursive=True)
    assert kernels
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert psutil.wait_procs(kernels, 10)[1] == []


def test_help_lists_every_stage_and_its_options(place):
    done = call("--help")
    assert all(stage in done.stdout for stage in ("evaluate", "bundle", "containerize", "deploy", "monitor", "demo"))
    done = call("evaluate", "--help")
    assert "--gate" in done.stdout and "--resamples" in done.stdout


def test_the_command_line_builds_no_grammars_to_read_a_notebook():
    asked = ("import contextlib, sys; from mlworkbench.app.cli import main\n"
             "with contextlib.suppress(SystemExit): main(['evaluate', '--help'])\n"
             "import nbformat; nbformat.validate(nbformat.v4.new_notebook()); assert 'lark' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
