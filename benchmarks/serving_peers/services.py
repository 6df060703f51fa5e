"""What is compared: how each service is made ready, started and asked, as its own documentation says."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mlworkbench.bundling.environment import ensure_environment
from mlworkbench.bundling.lock import read_lock
from mlworkbench.bundling.parity import free_port, service_command, service_environment
from mlworkbench.serving.keys import make_key

from . import pipeline

HERE = Path(__file__).resolve().parent
Rows = list[dict[str, Any]]
Answer = tuple[list[Any] | None, list[list[float]] | None]  # labels and probabilities, where the service tells them
QUIET = {"BENTOML_DO_NOT_TRACK": "True", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Command:
    """A service that is ready to be started."""

    argv: list[str]
    cwd: Path
    environ: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    about: str = ""


@dataclass(frozen=True)
class Peer:
    """Another way to serve the model: its folder beside this file, in an environment of its own."""

    name: str
    package: str  # whose version is told
    serve: Callable[[int, int], list[str]]  # port and workers to what follows the environment's bin folder
    route: str
    body: Callable[[Rows], Any]
    read: Callable[[Any], Answer]
    prepare: str = "pipeline.py"
    about: str = ""

    def make(self, model: str, work: Path, port: int, workers: int) -> Command:
        """Its environment and its model; it runs in the folder `work`, which must not be there yet."""
        folder = HERE / self.name
        python = ensure_environment(folder / "requirements.txt")
        shutil.copytree(folder, work)
        shutil.copy(HERE / "pipeline.py", work)
        hidden = ("PYTHON", "VIRTUAL_ENV", "BENTOML_", "MLFLOW_", "UV_", "PIP_")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(hidden)} | QUIET
        environ |= {"PATH": f"{python.parent}:{environ.get('PATH', '')}", "WORKERS": str(workers)}
        environ |= {"BENTOML_HOME": str(work / "bentoml"), "PYTHONWARNINGS": "ignore"}
        environ |= {"MLSERVER_HTTP_PORT": str(port), "MLSERVER_GRPC_PORT": str(free_port()),
                    "MLSERVER_METRICS_PORT": str(free_port()), "MLSERVER_PARALLEL_WORKERS": str(workers)}
        if self.prepare:
            done = subprocess.run([python, self.prepare, model], cwd=work, env=environ, capture_output=True, text=True,
                                  timeout=300)
            if done.returncode:
                raise RuntimeError(f"{self.name}: its model must be made, got:\n{done.stderr[-2000:]}")
        program, *arguments = self.serve(port, workers)
        return Command([str(python.parent / program), *arguments], work, environ)

    def version(self) -> str:
        """The version that its requirements name."""
        return read_lock(HERE / self.name / "requirements.txt")[self.package]


# --- the peers --------------------------------------------------------------------------------------------------------


def _plain(rows: Rows) -> Any:
    return {"rows": rows}


def _told(answer: Any) -> Answer:
    return answer["predictions"], answer["probabilities"]


def _columns(rows: Rows) -> Any:
    """The Open Inference Protocol's request: a column an input, as MLServer's pandas codec reads it."""
    inputs = [{"name": n, "shape": [len(rows), 1], "datatype": "FP64", "data": [row[n] for row in rows]}
              for n in pipeline.NUMBERS]
    inputs += [{"name": n, "shape": [len(rows), 1], "datatype": "BYTES", "parameters": {"content_type": "str"},
                "data": [row[n] for row in rows]} for n in pipeline.WORDS]
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


def _tensor(answer: Any) -> Answer:
    (output,) = answer["outputs"]
    width = output["shape"][1]
    flat = output["data"]
    return None, [flat[i : i + width] for i in range(0, len(flat), width)]


def _split(rows: Rows) -> Any:
    names = [*pipeline.NUMBERS, *pipeline.WORDS]
    return {"dataframe_split": {"columns": names, "data": [[row[n] for n in names] for row in rows]}}


def _uvicorn(app: str) -> Callable[[int, int], list[str]]:
    def command(port: int, workers: int) -> list[str]:
        several = ["--workers", str(workers)] if workers > 1 else []
        return ["uvicorn", app, "--host", "127.0.0.1", "--port", str(port), "--no-access-log", *several]

    return command


PEERS = (
    Peer("fastapi", "fastapi", _uvicorn("app:app"), "/predict", _plain, _told,
         about="a pydantic model a row; uvicorn with uvloop and httptools, no access log"),
    Peer("bentoml", "bentoml", lambda port, workers: ["bentoml", "serve", ".", "--host", "127.0.0.1", "--port", str(port)],
         "/predict", _plain, _told, prepare="prepare.py", about="one API on a data frame, as it comes"),
    Peer("vetiver", "vetiver", _uvicorn("app:api"), "/predict", lambda rows: rows, lambda answer: (answer["predict"], None),
         prepare="prepare.py", about="prototype checked; it tells labels only"),
    Peer("mlserver", "mlserver", lambda port, workers: ["mlserver", "start", "."], "/v2/models/model/infer", _columns, _tensor,
         about="its scikit-learn runtime, a column an input; uvloop before 0.22, which it needs; it tells probabilities only"),
    Peer("mlflow", "mlflow", lambda port, workers: ["mlflow", "models", "serve", "-m", "model", "--env-manager", "local",
                                                    "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)],
         "/invocations", _split, lambda answer: (answer["predictions"], None), prepare="prepare.py",
         about="`mlflow models serve`, signature enforced; it tells labels only"),
    Peer("litserve", "litserve", lambda port, workers: ["python", "server.py", str(port), str(workers)],
         "/predict", _plain, _told, about="up to 8 requests a batch, waiting 5 ms for more"),
    Peer("limit", "starlette", _uvicorn("app:app"), "/predict", _plain, _told, prepare="",
         about="an empty Starlette route: parses JSON, answers JSON; uvicorn, uvloop, httptools, orjson"),
)


# --- this project -----------------------------------------------------------------------------------------------------


def make_keys(path: Path, count: int = 10) -> tuple[Path, dict[str, str]]:
    """A key file with so many keys, and the header that shows one of them."""
    made = [make_key(["predict", "feedback"], label=f"caller {i}") for i in range(count)]
    path.write_text(json.dumps({"schema": 1, "keys": [entry for _, entry in made]}), encoding="utf-8")
    return path, {"Authorization": f"Bearer {made[count // 2][0]}"}


class Ours:
    """This project's service: a bundle in the environment of its own lock, with keys, checks and prediction log on."""

    name, package, route = "mlworkbench", "mlworkbench", "/predict"
    body, read = staticmethod(_plain), staticmethod(_told)

    def make(self, model: str, work: Path, port: int, workers: int) -> Command:
        """A proved bundle of the model, built into a store within `work`."""
        import mlworkbench as mlw

        work.mkdir(parents=True)
        os.environ |= {"BENTOML_HOME": str(work / "store"), "MLWORKBENCH_WORKSPACE": str(work / "workspace")}
        X, _ = pipeline.training()
        bundle = mlw.build_bundle(pipeline.fitted(model), name="bench", examples=X, environment="isolated")
        folder = Path(bundle.path)
        python = ensure_environment(folder / "src" / "requirements.lock")
        environ = service_environment(python, home=work / "home", log_dir=work / "log", deployment="bench")
        if workers > 1:
            environ["MLW_WORKERS"] = str(workers)
        path, headers = make_keys(work / "keys.json")
        return Command(service_command(folder, python, port), folder / "src", environ | {"MLW_KEYS_FILE": str(path)}, headers)

    def version(self) -> str:
        return metadata.version("mlworkbench")


OURS = Ours()
