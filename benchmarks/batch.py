"""Rows a second of `mlworkbench score` beside plain `model.predict`, and its memory. Writes docs/evidence/batch.md.

`python benchmarks/batch.py [ROWS_SMALL ROWS_LARGE]`, by default one and ten million. Both read the same Parquet file in batches
of the same size; plain predict keeps nothing, the workbench checks every cell and writes predictions and probabilities.
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, BATCH, ROUNDS = 10, 32_768, 3
MODELS = {
    "logistic regression, scaled": make_pipeline(StandardScaler(), LogisticRegression()),
    "100 boosted trees": HistGradientBoostingClassifier(max_iter=100, random_state=0),
    "50 trees of depth 12": RandomForestClassifier(50, max_depth=12, random_state=0),
}
PLAIN = """
import sys, time, joblib, pyarrow.parquet as pq, pandas, sklearn.ensemble
model, path = joblib.load(sys.argv[1]), sys.argv[2]
began = time.perf_counter()
for batch in pq.ParquetFile(path).iter_batches({batch}):
    model.predict(batch.to_pandas())
print(time.perf_counter() - began)
"""
OURS = """
import sys, time
from mlworkbench.deployment.score import score
import onnxruntime, pandas
began = time.perf_counter()
score(sys.argv[1], sys.argv[2], sys.argv[3], scores=sys.argv[4] == "scores")
print(time.perf_counter() - began)
"""


def write_rows(path: Path, rows: int) -> None:
    """Normal numbers, a million at a time."""
    draw, names = np.random.default_rng(0), [f"x{i}" for i in range(COLUMNS)]
    with pq.ParquetWriter(path, pa.schema([(name, pa.float64()) for name in names])) as file:
        for start in range(0, rows, 10**6):
            table = np.clip(draw.normal(size=(min(10**6, rows - start), COLUMNS)), -3, 3)
            file.write_table(pa.Table.from_arrays(list(table.T.copy()), names), row_group_size=2**18)


def learn(model, rows: int = 20_000) -> pd.DataFrame:
    """Fit on rows of the same kind; returns them."""
    draw = np.random.default_rng(1)
    X = pd.DataFrame(np.clip(draw.normal(size=(rows, COLUMNS)), -3, 3), columns=[f"x{i}" for i in range(COLUMNS)])
    X.iloc[0], X.iloc[1] = -3.0, 3.0
    model.fit(X, np.where(X["x0"] + X["x1"] * X["x2"] > 0.3, "yes", "no"))
    return X


def measure(code: str, *arguments: str) -> tuple[float, float]:
    """Seconds that a script says it took, and the most memory of it and its children, in MB."""
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    most = [0.0]
    watcher = threading.Thread(target=_watch, args=(psutil.Process(process.pid), most), daemon=True)
    watcher.start()
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run ended with {process.returncode}")
    return float(out.split()[-1]), most[0]


def _watch(process: psutil.Process, most: list[float]) -> None:
    while True:
        try:
            everybody = [process, *process.children(recursive=True)]
            most[0] = max(most[0], sum(p.memory_info().rss for p in everybody) / 2**20)
        except psutil.NoSuchProcess:
            if not process.is_running():
                return
        time.sleep(0.05)


def run(folder: Path, rows: int, path: Path) -> list[str]:
    """A line of the table for each model: the best of some rounds, taken in turns."""
    import joblib

    import mlworkbench as mlw

    lines = []
    for number, (name, model) in enumerate(MODELS.items()):
        X = learn(model)
        bundle = mlw.build_bundle(model, name=f"model{number}", examples=X, environment="current", golden_rows=16)
        joblib.dump(model, folder / "model.joblib")
        found: dict[str, list[tuple[float, float]]] = {"plain": [], "predictions": [], "scores": []}
        for round_ in range(ROUNDS):
            found["plain"].append(measure(PLAIN.format(batch=BATCH), str(folder / "model.joblib"), str(path)))
            for kind in ("predictions", "scores"):
                out = folder / f"out-{number}-{rows}-{round_}-{kind}"
                found[kind].append(measure(OURS, bundle.path, str(path), str(out), kind))
        rate = {kind: rows / min(seconds for seconds, _ in runs) for kind, runs in found.items()}
        memory = {kind: max(mb for _, mb in runs) for kind, runs in found.items()}
        lines.append(f"| {name} | {rows:,} | {rate['plain']:,.0f} | {rate['predictions']:,.0f} | "
                     f"{rate['predictions'] / rate['plain']:.2f} | {rate['scores']:,.0f} | {memory['plain']:,.0f} | "
                     f"{memory['scores']:,.0f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    sizes = [int(each.replace("_", "")) for each in sys.argv[1:]] or [10**6, 10**7]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ |= {"MLWORKBENCH_WORKSPACE": str(folder / "workspace"), "BENTOML_HOME": str(folder / "bentoml")}
        lines = []
        for rows in sizes:
            path = folder / f"{rows}.parquet"
            write_rows(path, rows)
            lines += run(folder, rows, path)
    versions = json.dumps({name: __import__(name).__version__ for name in ("sklearn", "pyarrow", "pandas")})
    text = "\n".join([
        "# Batch scoring", "",
        f"{datetime.date.today()}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, {versions}, {COLUMNS} columns of "
        f"doubles. The best of {ROUNDS} runs in turns, each in a process of its own; what it imports before is not counted, what "
        "`score` opens, verifies and starts is. *Plain*: `model.predict` over the same Parquet file in batches of the same size, "
        "nothing checked, nothing written. *Score*: `mlworkbench.score` of the bundle with the default number of processes, "
        "predictions alone, and with probabilities. Memory: the most that all processes together held, in MB, with what they "
        "share counted for each. `python benchmarks/batch.py`", "",
        "| model | rows | plain, rows/s | score, rows/s | ratio | with probabilities, rows/s | plain, MB | score, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|", *lines, "",
    ])
    (ROOT / "docs" / "evidence" / "batch.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
