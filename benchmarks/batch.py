"""Rows a second of `mlworkbench score` beside plain `model.predict`, and the memory of both. Writes docs/evidence/batch.md.

`python benchmarks/batch.py [--rows 1000000 3000000 10000000] [--write FILE]`: less than ten minutes on two idle cores. The peers
are what a person writes instead (PEERS, below); all of them read the same Parquet file, which pandas wrote.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import mlworkbench as mlw

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROUNDS, PATIENCE_S, TARGET = 10, 3, 45, 0.9
GROUP = 2**20  # rows of a row group, as pandas writes them
IMPORTS = "import sys, time, joblib, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, sklearn.ensemble, sklearn.pipeline\n"
PEERS = {
    # model.predict over the file, and nothing done with what it says
    "bare": """
for batch in pq.ParquetFile(path).iter_batches():
    model.predict(batch.to_pandas())
""",
    # the same, and the predictions written as Parquet
    "batches": """
writer = pq.ParquetWriter(out, pa.schema([("prediction", pa.string())]))
for batch in pq.ParquetFile(path).iter_batches():
    found = pd.DataFrame({"prediction": model.predict(batch.to_pandas())})
    writer.write_table(pa.Table.from_pandas(found, writer.schema))
writer.close()
""",
    # all of it at once, as long as it fits into memory
    "whole": """
pd.DataFrame({"prediction": model.predict(pd.read_parquet(path))}).to_parquet(out)
""",
}
PLAIN = ("{imports}model, path, out = joblib.load(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
         "began = time.perf_counter()\n{code}\n{end}")
OURS = "{imports}import onnxruntime\nfrom mlworkbench.deployment.score import score\nbegan = time.perf_counter()\n{code}\n{end}"
SCORE = "score(sys.argv[1], sys.argv[2], sys.argv[3], scores={scores})"
END = "print(time.perf_counter() - began)"


def draw_numbers(rows: int, draw: np.random.Generator) -> pd.DataFrame:
    """Normal numbers, cut off so that none lies outside of what the model was fitted on."""
    return pd.DataFrame(np.clip(draw.normal(size=(rows, COLUMNS)), -3, 3), columns=[f"x{i}" for i in range(COLUMNS)])


def draw_people(rows: int, draw: np.random.Generator) -> pd.DataFrame:
    """People of the demo's census, drawn with replacement: 2 columns of numbers and 14 of text, with gaps."""
    people = pd.read_parquet(ROOT / "templates" / "demo" / "census_employment.parquet")
    people = people.drop(columns=["id", "year", "employed"])
    return people.iloc[draw.integers(0, len(people), rows)].reset_index(drop=True)


def people_model():
    """One column for each word, and scaled numbers."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    words = draw_people(1, np.random.default_rng(0)).select_dtypes("str").columns
    encode = OneHotEncoder(handle_unknown="ignore")
    return make_pipeline(make_column_transformer((encode, list(words)), remainder=numbers), LogisticRegression(max_iter=500))


MODELS = {
    "linear, 10 numbers": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), draw_numbers),
    "forest of 50 trees, 10 numbers": (lambda: RandomForestClassifier(50, max_depth=12, random_state=0), draw_numbers),
    "linear, 14 texts and 2 numbers": (people_model, draw_people),
}


def learn(make, draw):
    """A model of a rule that both kinds of rows have something to say about, and the rows that it learned from."""
    X = draw(20_000, np.random.default_rng(1))
    first, second = (X.select_dtypes("float64").iloc[:, i] for i in (0, 1))
    if draw is draw_numbers:
        X.iloc[0], X.iloc[1] = -3.0, 3.0
    return make().fit(X, np.where(first.fillna(0) + 0.5 * second.fillna(0) > first.mean(), "yes", "no")), X


def write_rows(path: Path, rows: int, draw) -> None:
    """A file like one that pandas wrote at once, a million rows at a time."""
    generator, writer = np.random.default_rng(0), None
    for start in range(0, rows, GROUP):
        table = pa.Table.from_pandas(draw(min(GROUP, rows - start), generator), preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=GROUP)
    writer.close()


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
    while process.is_running():
        try:
            everybody = [process, *process.children(recursive=True)]
            most[0] = max(most[0], sum(p.memory_info().rss for p in everybody) / 2**20)
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.02)


def in_turns(folder: Path, bundle, path: Path) -> dict[str, list[tuple[float, float]]]:
    """Each peer and each way of ours, one after another, up to some rounds; a round that takes long is the only one."""
    scripts = {name: PLAIN.format(imports=IMPORTS, code=code, end=END) for name, code in PEERS.items()}
    scripts |= {name: OURS.format(imports=IMPORTS, code=SCORE.format(scores=name == "scores"), end=END)
                for name in ("score", "scores")}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in scripts}
    began = time.monotonic()
    for round_ in range(ROUNDS):
        for name, script in scripts.items():
            model = bundle.path if name in ("score", "scores") else str(folder / "model.joblib")
            found[name].append(measure(script, model, str(path), str(folder / f"{path.stem}-{name}-{round_}")))
        if time.monotonic() - began > PATIENCE_S:
            break
    ours = pd.read_parquet(folder / f"{path.stem}-score-0", columns=["prediction"])["prediction"]
    theirs = pd.read_parquet(folder / f"{path.stem}-whole-0")["prediction"]
    if (different := int((ours.to_numpy() != theirs.to_numpy()).sum())):
        raise SystemExit(f"{different} of {len(ours)} predictions differ")
    return found


def run(folder: Path, sizes: list[int]) -> list[str]:
    """The lines of the table."""
    lines = []
    for number, (name, (make, draw)) in enumerate(MODELS.items()):
        model, X = learn(make, draw)
        bundle = mlw.build_bundle(model, name=f"model{number}", examples=X, environment="current", golden_rows=16)
        joblib.dump(model, folder / "model.joblib")
        for rows in [rows for rows in sizes if rows <= 3_000_000 or draw is draw_numbers]:
            path = folder / f"{number}-{rows}.parquet"
            write_rows(path, rows, draw)
            found = in_turns(folder, bundle, path)
            rate = {each: rows / min(seconds for seconds, _ in runs) for each, runs in found.items()}
            memory = {each: max(mb for _, mb in runs) for each, runs in found.items()}
            writing = max(rate["batches"], rate["whole"])
            lines.append(
                f"| {name} | {rows:,} | {rate['bare']:,.0f} | {rate['batches']:,.0f} | {rate['whole']:,.0f} | "
                f"{rate['score']:,.0f} | **{rate['score'] / writing:.2f}** | {rate['score'] / rate['bare']:.2f} | "
                f"{rate['scores']:,.0f} | {memory['batches']:,.0f} | {memory['whole']:,.0f} | {memory['score']:,.0f} | "
                f"{len(found['score'])} |")
            print(lines[-1], flush=True)
            path.unlink()
    return lines


def page(lines: list[str], load: float) -> str:
    """What is committed."""
    versions = json.dumps({name: __import__(name).__version__ for name in ("sklearn", "pyarrow", "pandas", "onnxruntime")})
    busy = f" **Other work ran meanwhile (load {load:.1f} at the start).**" if load > 0.3 * (os.cpu_count() or 1) else ""
    return "\n".join([
        "# Batch scoring", "",
        f"{datetime.date.today()}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, {versions}. "
        f"`python benchmarks/batch.py`.{busy}", "",
        "Rows a second, the best of the rounds (last column), which are taken in turns, each run in a process of its own. All "
        "read the same Parquet file, in row groups of 2^20 rows as pandas writes them. What is imported is not counted; opening, "
        "verifying and proving the bundle, hashing the input and waiting for the disk is. The predictions were compared: none "
        "differs.", "",
        "- *bare*: `model.predict` of the scikit-learn model over `ParquetFile.iter_batches()`; nothing is written.",
        "- *batches*: the same, and each batch's predictions written to one Parquet file. *whole*: `pandas.read_parquet`, "
        "`predict`, `to_parquet`.",
        "- *score*: `mlworkbench.score` of the bundle, predictions alone (`scores=False`); every cell is checked, every part is "
        "synced. *with probabilities*: both.",
        f"- *ratio*: *score* to the quicker of the two that write, which is to be at least {TARGET}; *to bare*: to the one that "
        "does not.",
        "- MB: the most that all processes together held.", "",
        "| model | rows | bare | batches | whole | score | ratio | to bare | with probabilities | batches, MB | whole, MB | "
        "score, MB | rounds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|", *lines, "",
    ])


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 3 * 10**6, 10**7])
    parser.add_argument("--write", type=Path, default=ROOT / "docs" / "evidence" / "batch.md")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ |= {"MLWORKBENCH_WORKSPACE": str(folder / "workspace"), "BENTOML_HOME": str(folder / "bentoml")}
        text = page(run(folder, options.rows), load)
    options.write.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
