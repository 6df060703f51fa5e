"""Headless runs: equal through all faces, and none hangs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

MLWORKBENCH = str(Path(sys.executable).with_name("mlworkbench"))


def outputs(notebook: Path) -> list:
    """Tables and figures of an executed notebook: the HTML and SVG of its ordinary outputs, panel left out."""
    found = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if output["output_type"] == "display_data":
                found.append({k: "".join(v) for k, v in data.items() if k in ("text/html", "image/svg+xml", "text/plain")})
    return found


@pytest.fixture(scope="module")
def model_and_rows(tmp_path_factory):
    from mlworkbench.app.demo import demo_model
    from mlworkbench.model.loading import save_model

    folder = tmp_path_factory.mktemp("model")
    model, X, y = demo_model()
    save_model(model, folder / "census.skops")
    X.assign(employed=y).to_parquet(folder / "rows.parquet")
    return {"model": str(folder / "census.skops"), "data": str(folder / "rows.parquet"), "target": "employed"}


def test_papermill_command_line_and_script_give_equal_summary_tables_and_figures(model_and_rows, place, tmp_path):
    from mlworkbench import stages
    from mlworkbench.app.headless import stage_notebook

    sources = [part for k, v in model_and_rows.items() for part in (f"--{k}", v)]
    subprocess.run([MLWORKBENCH, "evaluate", *sources, "--resamples", "100", "--out", str(tmp_path / "cli")],
                   check=True, capture_output=True, timeout=300)
    given = [part for k, v in {**model_and_rows, "resamples": "100", "out": str(tmp_path / "pm")}.items()
             for part in ("-p", k, v)]
    (tmp_path / "pm").mkdir()
    subprocess.run([sys.executable, "-m", "papermill", str(stage_notebook("evaluate")),
                    str(tmp_path / "pm" / "evaluate.ipynb"), *given], check=True, capture_output=True, timeout=300)
    records = [json.loads((tmp_path / d / "evaluate.json").read_text()) for d in ("cli", "pm")]
    assert records[0]["summary"] == records[1]["summary"] != {}
    shown = [outputs(tmp_path / d / "evaluate.ipynb") for d in ("cli", "pm")]
    assert shown[0] == shown[1]
    assert any("image/svg+xml" in piece for piece in shown[0])
    found = stages.evaluate(**model_and_rows, resamples=100)
    assert json.loads(json.dumps(found.to_dict()["summary"])) == records[0]["summary"]


def test_headless_runs_in_a_row_never_hang(size, measured, model_and_rows, place, tmp_path):
    """Each run gets 120 s; a hang would last for ever."""
    sources = [part for k, v in model_and_rows.items() for part in (f"--{k}", v)]
    seconds = []
    for number in range(size("headless_runs")):
        start = time.monotonic()
        done = subprocess.run([MLWORKBENCH, "evaluate", *sources, "--resamples", "20", "--out", str(tmp_path / str(number))],
                              capture_output=True, text=True, timeout=120, env=os.environ)
        assert done.returncode == 0, done.stderr
        seconds.append(time.monotonic() - start)
    seconds.sort()
    measured(runs=len(seconds), hung=0, median_s=f"{seconds[len(seconds) // 2]:.1f}", slowest_s=f"{seconds[-1]:.1f}")
