"""A bundle folder made by hand, for tests of the `serving` room: what `bundling` builds, without building it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil
import skops.io
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlworkbench.bundling.parity import trust
from mlworkbench.bundling.verify import CERTIFICATE, MANIFEST, SOURCE, hash_files, seal
from mlworkbench.serving.integrity import SCHEMA, content_sha256, installed_version, sha256_file
from mlworkbench.serving.signature import Column, Signature

ROOT = Path(__file__).resolve().parent.parent
DROPPED = ["id", "year", "employed", "parents_employment"]


def census(rows: int = 2000) -> tuple[pd.DataFrame, np.ndarray]:
    """The demo's people, without the target, and whether they are employed."""
    frame = pd.read_parquet(ROOT / "templates/demo/census_employment.parquet").head(rows)
    return frame.drop(columns=DROPPED), frame["employed"].to_numpy(dtype=object)


def fitted_pipeline(X: pd.DataFrame, y: np.ndarray, *, trees: int = 0) -> BaseEstimator:
    """A pipeline on mixed types; `trees` > 0 makes it a forest, which takes some milliseconds a row."""
    numbers = list(X.columns[X.dtypes == "float64"])
    words = [c for c in X.columns if c not in numbers]
    prepare = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), words),
    )
    model = RandomForestClassifier(trees, max_depth=8, random_state=0) if trees else LogisticRegression(max_iter=500)
    return make_pipeline(prepare, model).fit(X, y)


def census_signature(X: pd.DataFrame) -> Signature:
    """The contract of the demo's columns."""
    columns = []
    for name, values in X.items():
        nullable = bool(values.isna().any())
        if values.dtype == "float64":
            edges = {"minimum": float(values.min()), "maximum": float(values.max())}
            columns.append(Column(name, "number", "float64", nullable, **edges))
        else:
            known = sorted(values.dropna().unique().tolist())
            columns.append(Column(name, "string", str(values.dtype), nullable, categories=known))
    return Signature(columns, "binary", ["no", "yes"])


def json_rows(frame: pd.DataFrame) -> list[dict]:
    """A frame's rows as a caller sends them: null where a value is missing."""
    return [{k: None if pd.isna(v) else v for k, v in row.items()} for row in frame.to_dict("records")]


def write_bundle(folder: Path, model: BaseEstimator, signature: Signature, X: pd.DataFrame, **settings) -> Path:
    """Write all that the service reads; the golden rows are the first of `X`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "mlworkbench/serving", folder / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("service.py", "page.html"):
        shutil.copy(ROOT / "templates/service" / name, folder / name)
    (folder / "model").mkdir()
    skops.io.dump(model, folder / "model/model.skops")
    golden = {"rows": json_rows(X), "predictions": model.predict(X).tolist(), "tolerance": 1e-9}
    if signature.classes:
        golden |= {"classes": list(signature.classes), "probabilities": model.predict_proba(X).tolist()}
    write_json(folder / "golden.json", golden)
    write_json(folder / "signature.json", signature.to_dict())
    write_json(folder / "service.json", {"schema": 1, "name": "census", "auth": "off", **settings})
    return write_manifest(folder)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_manifest(folder: Path, **changes: object) -> Path:
    """The manifest of what lies in the folder now."""
    skipped = ("__pycache__", "manifest.json", "certificate.json", "provenance.json")
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and not set(p.parts) & set(skipped)]
    trusted = skops.io.get_untrusted_types(file=folder / "model/model.skops")
    about = {"file": "model/model.skops", "format": "skops", "type": "sklearn.pipeline.Pipeline", "trusted": trusted}
    libraries = {name: installed_version(name) for name in ("numpy", "pandas", "scikit-learn", "scipy", "skops")}
    files = {p.relative_to(folder).as_posix(): sha256_file(p) for p in paths}
    manifest = {"schema": SCHEMA, "name": "census", "version": "0123456789abcdef", "model": about, "files": files}
    manifest |= {"libraries": libraries, "python": "3.11", **changes}
    write_json(folder / "manifest.json", manifest | {"content_sha256": content_sha256(manifest)})
    write_json(folder / "certificate.json", {"sealed": {}})
    return folder


def census_bundle(folder: Path, *, trees: int = 0, golden_rows: int = 16, **settings) -> Path:
    """A bundle of the demo's model."""
    X, y = census()
    return write_bundle(folder, fitted_pipeline(X, y, trees=trees), census_signature(X), X.head(golden_rows), **settings)


class Served:
    """`bentoml serve` of a bundle folder on loopback, ended with all its processes on leaving the block."""

    def __init__(self, folder: Path, *, log: Path | None = None, home: Path, wait: str = "readyz", **environ: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.wait, self.url = folder.resolve(), wait, f"http://127.0.0.1:{self.port}"
        self.output = home / f"serve-{self.port}.log"
        self.environ = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", **environ}
        for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH"):
            self.environ.pop(name, None)
        if log is not None:
            self.environ["MLW_LOG_DIR"] = str(log)

    def launch(self) -> "Served":
        """Start it, without waiting for anything."""
        command = [str(Path(sys.executable).with_name("bentoml")), "serve", str(self.folder)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)], env=self.environ, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )
        return self

    def start(self) -> "Served":
        self.launch().wait_for(self.wait)
        return self

    def wait_for(self, path: str, timeout_s: float = 120.0) -> None:
        """Until the path answers 200."""
        end = time.monotonic() + timeout_s
        with httpx.Client(verify=trust(self.url), trust_env=False, timeout=5) as client:
            while time.monotonic() < end and self.process.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    if client.get(f"{self.url}/{path}", headers={"Connection": "close"}).status_code == 200:
                        return
                time.sleep(0.1)
        raise AssertionError(f"{path} did not answer 200:\n{self.output.read_text()[-3000:]}")

    def workers(self) -> list[int]:
        """The process ids of the workers: BentoML's service processes, not Python's resource tracker beside them."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one, too: killed, and not yet waited for
                if "_bentoml_impl.worker.service" in " ".join(child.cmdline()):
                    found.append(child.pid)
        return found

    def kill(self) -> None:
        """SIGKILL for the server and its workers, which lead sessions of their own and would live on."""
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(self.process.pid)
            family = [server, *server.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(10)
        assert psutil.wait_procs(family, 10)[1] == []

    def __enter__(self) -> "Served":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def changed_copy(bundle: str | Path, folder: Path, name: str, change: Callable[[str], str]) -> Path:
    """A copy of a bundle at `folder` with one file of its content changed, sealed as if it had been proved so."""
    shutil.copytree(bundle, folder)
    path, source = folder / SOURCE / name, folder / SOURCE
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    manifest = json.loads((source / MANIFEST).read_text())
    manifest["files"] = {k: v for k, v in hash_files(source).items() if k in manifest["files"]}
    digest = content_sha256(manifest)
    (source / MANIFEST).write_text(json.dumps({**manifest, "content_sha256": digest, "version": digest[:16]}))
    certificate = json.loads((source / CERTIFICATE).read_text())
    (source / CERTIFICATE).write_text(json.dumps({**certificate, "sealed": seal(folder)}))
    return folder


def turned_round(golden: str) -> str:
    """Golden rows of the census that say the opposite: nothing proves them."""
    told, opposite = json.loads(golden), {"yes": "no", "no": "yes"}
    return json.dumps(told | {"predictions": [opposite[p] for p in told["predictions"]]})
