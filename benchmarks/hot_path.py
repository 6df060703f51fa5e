"""Where do the microseconds of one request go? Our service's request path within this process, without a socket.

Each step's own time, what is left for the rest, and the ratio to an empty Starlette route driven in the same way. Steps
are found by wrapping functions of the `serving` room, so their sum is a little larger than the time without wrappers.
"""

import argparse
import asyncio
import contextlib
import cProfile
import functools
import inspect
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from serving_peers import pipeline
from serving_peers.services import make_keys

import mlworkbench as mlw
from mlworkbench.serving import answers, http, protocols, service
from mlworkbench.serving import log as log_module
from mlworkbench.serving import predictor as predictor_module
from mlworkbench.serving.application import Application
from mlworkbench.serving.predictor import Cost

HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"accept", b"*/*")]


# --- an application, and how it is asked ----------------------------------------------------------------------------


def make_application(model: str, folder: Path) -> tuple[Application, list[tuple[bytes, bytes]]]:
    """A started application of a bundle built in this environment, with a prediction log; and what a caller sends it."""
    os.environ |= {"BENTOML_HOME": str(folder / "store"), "MLWORKBENCH_WORKSPACE": str(folder / "workspace")}
    X, _ = pipeline.training()
    bundle = mlw.build_bundle(pipeline.fitted(model), name="bench", examples=X, environment="current")
    path, shown = make_keys(folder / "keys.json")
    environment = {"MLW_LOG_DIR": str(folder / "log"), "MLW_DEPLOYMENT": "bench", "MLW_KEYS_FILE": str(path)}
    made = Application(Path(bundle.path) / "src", environment).start()
    if made.refusal:
        raise SystemExit(f"hot_path: the bundle must start, got: {made.refusal}")
    return made, HEADERS + [(name.lower().encode(), value.encode()) for name, value in shown.items()]


def answer_at_once(application: Application) -> None:
    """Put a model that answers without thinking in place of the real one: what is left is the service's own time."""
    labels = np.array(application.predictor.classes)

    def answer(columns: dict[str, list], rows: int) -> dict[str, np.ndarray]:
        return {"predictions": labels[:1].repeat(rows), "probabilities": np.full((rows, len(labels)), 0.5)}

    application.predictor._ask.direct = answer
    application.cost = Cost(1e-5, 0.0)


def bodies(rows: int, count: int = 50) -> list[bytes]:
    """Different bodies of so many rows each."""
    told = pipeline.table(rows * count, seed=5).to_dict("records")
    return [orjson.dumps({"rows": told[i : i + rows]}) for i in range(0, len(told), rows)]


async def ask(app: Callable[..., Any], body: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """One request as a server would hand it over; the status."""
    status = 0
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/predict",
             "raw_path": b"/predict", "query_string": b"", "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1),
             "server": ("127.0.0.1", 2), "headers": [*headers, (b"content-length", b"%d" % len(body))]}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    return status


async def several(app: Callable[..., Any], asked: list[bytes], seconds: float, headers: list) -> tuple[list[float], float]:
    """Seconds of each of as many requests, one after another, as there is time for; and of the processor, on average."""
    times, end, clock, used = [], time.perf_counter() + seconds, time.perf_counter, time.process_time()
    while clock() < end:
        for body in asked:
            await asyncio.sleep(0)  # a turn of the loop each, as with a socket: those of one turn are answered together
            start = clock()
            status = await ask(app, body, headers)
            times.append(clock() - start)
            if status != 200:
                raise SystemExit(f"hot_path: every request must be answered with 200, got {status}")
    return times, (time.process_time() - used) / len(times)


# --- the steps ------------------------------------------------------------------------------------------------------


class Steps:
    """Each wrapped function's own time: without that of the wrapped functions it calls."""

    def __init__(self, clock: Callable[[], float]):
        self.spent: dict[str, float] = {}
        self.clock, self._inner = clock, [0.0]

    def add(self, name: str, start: float, inner: float) -> None:
        taken = self.clock() - start
        self._inner[-1] += taken
        self.spent[name] = self.spent.get(name, 0.0) + taken - inner

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed."""
        if inspect.iscoroutinefunction(function):
            @functools.wraps(function)
            async def timed(*args: Any, **kwargs: Any) -> Any:
                self._inner.append(0.0)
                start = self.clock()
                try:
                    return await function(*args, **kwargs)
                finally:
                    self.add(name, start, self._inner.pop())
        else:
            @functools.wraps(function)
            def timed(*args: Any, **kwargs: Any) -> Any:
                self._inner.append(0.0)
                start = self.clock()
                try:
                    return function(*args, **kwargs)
                finally:
                    self.add(name, start, self._inner.pop())
        return timed


def places(application: Application) -> Iterator[tuple[str, Any, str]]:
    """(step, object, attribute) of what is timed, where this version has it."""
    asker, log, predictor = application.predictor._ask, application.log, type(application.predictor)
    yield "request: method, path, headers, id", http.Request, "__init__"
    yield "keys", getattr(application, "keys", None), "check"
    yield "body: received", http.Request, "body"
    yield "parse: JSON", protocols, "read_object"
    yield "check: signature", type(application.predictor.signature), "check"
    yield "model's input: built", predictor_module, "build_input"
    for value in [each for held in vars(asker).values() for each in (held if isinstance(held, list) else [held])]:
        if hasattr(value, "transform"):  # a step of a pipeline that prepares the rows
            yield "model: prepares", value, "transform"
    for name, value in vars(asker).items():
        if hasattr(getattr(value, "__self__", None), "__sklearn_is_fitted__") or hasattr(value, "__func__"):
            yield "model: answers", asker, name
    if hasattr(application.predictor.estimator, "matrix"):  # a graph
        yield "model's input: built", type(application.predictor.estimator.matrix), "__call__"
        yield "model: runs", application.predictor.estimator, "_run"
    yield "model's answers: as lists", type(asker), "__call__"
    yield "model's answers: as lists", type(asker), "columns"
    yield "log: records", answers, "_records"
    yield "log: lines", log_module, "record_tails"
    yield "log: written", log, "write"
    yield "answer: fields", predictor, "_scored"
    yield "answer: JSON", http.Reply, "json"
    yield "answer: sent", http.Reply, "send"
    yield "job: settled", application.answers, "settle"
    for method in ("began", "ended", "scored", "batched"):
        yield "metrics", application.metrics, method


@contextlib.contextmanager
def wrapped(application: Application, clock: Callable[[], float]) -> Iterator[Steps]:
    """The steps' times, while the block runs; places that this version does not have are left out."""
    steps, undo = Steps(clock), []
    for name, owner, attribute in places(application):
        find = inspect.getattr_static if isinstance(owner, type) else getattr
        held = find(owner, attribute, None)
        if held is None or owner is None:
            continue
        undo.append((owner, attribute, vars(owner).get(attribute)))
        inner = held.__func__ if isinstance(held, classmethod) else held
        fresh = steps.wrap(name, inner)
        setattr(owner, attribute, classmethod(fresh) if isinstance(held, classmethod) else fresh)
    try:
        yield steps
    finally:
        for owner, attribute, held in reversed(undo):
            delattr(owner, attribute) if held is None else setattr(owner, attribute, held)


# --- what is told ---------------------------------------------------------------------------------------------------


CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def measure(application: Application, rows: int, seconds: float, headers: list, clock: Callable[[], float]) -> str:
    """What a request takes, what the empty route takes, and each step's share."""
    from serving_peers.limit.app import app as empty

    asked, front = bodies(rows), service.Front(empty, application)
    asyncio.run(several(front, asked, seconds / 4, headers))
    plain, used = asyncio.run(several(front, asked, seconds, headers))
    limit, least = asyncio.run(several(empty, asked, seconds / 2, headers))
    with wrapped(application, clock) as steps:
        start = clock()
        count = len(asyncio.run(several(front, asked, seconds, headers))[0])
        whole = (clock() - start) / count
    each = {name: spent / count for name, spent in steps.spent.items()}
    each["the rest: route, queue, coroutines, this loop"] = max(0.0, whole - sum(each.values()))
    wall, bare = statistics.median(plain) * 1e6, statistics.median(limit) * 1e6
    lines = [f"{rows} row{'s' if rows > 1 else ''} a request: median {wall:,.1f} µs, of the processor {used * 1e6:,.1f} µs. "
             f"An empty Starlette route: {bare:,.1f} and {least * 1e6:,.1f} µs. Ratio {wall / bare:.2f} and {used / least:.2f}"]
    lines += [f"  {name:46s} {spent * 1e6:10,.1f} µs" for name, spent in sorted(each.items(), key=lambda pair: -pair[1])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=[*pipeline.MODELS, "instant"], default="forest",
                        help="instant: one that answers at once, so that what is left is the service's own")
    parser.add_argument("--rows", type=int, action="append", help="rows a request (may be repeated); default 1 and 100")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu", help="of the steps: the processor's, or the wall's")
    parser.add_argument("--profile", type=int, metavar="LINES", help="print so many lines of cProfile, too")
    options = parser.parse_args()
    from mlworkbench.serving.service import calm_collector

    with tempfile.TemporaryDirectory(prefix="bench-hot-path-", ignore_cleanup_errors=True) as folder:
        application, headers = make_application("function" if options.model == "instant" else options.model, Path(folder))
        calm_collector()
        for rows in options.rows or (1, 100):
            if options.model == "instant":
                answer_at_once(application)
            print(measure(application, rows, options.seconds, headers, CLOCKS[options.clock]), flush=True)
            if options.profile:
                profile = cProfile.Profile()
                profile.runcall(asyncio.run, several(service.Front(None, application), bodies(rows), options.seconds, headers))
                pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(options.profile)


if __name__ == "__main__":
    main()
