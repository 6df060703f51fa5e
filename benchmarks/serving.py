"""How fast is a service, beside every peer that serves the same model? Writes docs/evidence/serving.md.

One after another on this machine: this project's service (keys, checks and prediction log on), its peers, each in an
environment of its own and written as its documentation says, and the limit, an empty route. Each is driven by wrk with
1 and with 8 connections, by single rows and by 100 rows a request; before that its answers are compared with the
pipeline's. Needs wrk on PATH.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sklearn
from serving_peers import pipeline
from serving_peers.running import Running, load, running
from serving_peers.services import OURS, PEERS, Ours, Peer

from mlworkbench.bundling.parity import free_port

EVIDENCE = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "serving.md"
SCENARIOS = {"1 row, 1 connection": (1, 1), "1 row, 8 connections": (1, 8),
             "100 rows, 1 connection": (100, 1), "100 rows, 8 connections": (100, 8)}
BODIES = {1: 200, 100: 20}  # different bodies that take turns, by their rows
PLAN = {"forest": (OURS, *PEERS), "linear": (OURS, PEERS[0], PEERS[-1]), "function": (OURS, PEERS[0])}
TITLES = {"forest": "Imputer, scaler, one-hot and a forest of 100 trees", "linear": "The same before a logistic regression",
          "function": "A model that cannot be converted"}
TOLERANCE = 1e-6


@dataclass
class Found:
    """What was found of one service."""

    version: str
    about: str
    ready_s: float = 0.0
    memory_mb: float = 0.0
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    problem: str = ""

    def figure(self, scenario: str, name: str) -> float:
        """The median of a figure over the rounds; not a number where there is none."""
        values = [_rate(r) if name == "rate" else r[name] for r in self.rounds.get(scenario, ())]
        return statistics.median(values) if values else float("nan")


def _rate(found: dict[str, float]) -> float:
    """Answered requests a second."""
    return (found["requests"] - found["status"]) / found["seconds"]


# --- what is asked ----------------------------------------------------------------------------------------------------


def make_asked(model: str) -> dict[int, list[tuple[list[dict], list[str], list[list[float]]]]]:
    """By rows a request: the requests, each as rows with the labels and probabilities that the pipeline gives."""
    fitted = pipeline.fitted(model)
    asked = {}
    for rows, count in BODIES.items():
        frame = pipeline.table(rows * count, seed=1000 + rows)
        labels, chances = fitted.predict(frame).tolist(), fitted.predict_proba(frame).tolist()
        told = frame.to_dict("records")
        places = [slice(i, i + rows) for i in range(0, len(told), rows)]
        asked[rows] = [(told[p], labels[p], chances[p]) for p in places]
    return asked


def check(service: Running, peer: Any, asked: list, limit: int) -> None:
    """The first requests must be answered as the pipeline answers, and none without its key; otherwise nothing is timed."""
    if service.headers and service.ask(json.dumps(peer.body(asked[0][0])), headers={})[0] != 401:
        raise RuntimeError("a request without its key must be answered with 401")
    for rows, labels, chances in asked[:limit]:
        status, answer = service.ask(json.dumps(peer.body(rows)))
        if status != 200:
            raise RuntimeError(f"a request must be answered with 200, got {status}: {str(answer)[:300]}")
        told, probabilities = peer.read(answer)
        if told is not None and list(told) != labels:
            raise RuntimeError("the labels must be the pipeline's")
        pairs = [(a, b) for left, right in zip(probabilities or chances, chances, strict=True)
                 for a, b in zip(left, right, strict=True)]
        worst = max(abs(a - b) for a, b in pairs)
        if worst > TOLERANCE:
            raise RuntimeError(f"the probabilities must be the pipeline's, got {worst:.2g} as the largest difference")


# --- one service ------------------------------------------------------------------------------------------------------


def measure(peer: Ours | Peer, model: str, asked: dict, options: argparse.Namespace, work: Path) -> Found:
    """Start a service, check its answers, drive it through every scenario, end it."""
    found = Found(peer.version(), "")
    folder, port = work / f"{peer.name}-{model}", free_port()
    try:
        command = peer.make(model, folder, port, options.workers)
        found.about = command.about
        paths = {rows: _write(folder / f"bodies-{rows}", peer, several) for rows, several in asked.items()}
        first = paths[1].read_text(encoding="utf-8").splitlines()[0]
        with running(command, port, peer.route, first, folder / "output.log", options.timeout) as (service, seconds):
            found.ready_s = seconds
            if peer.name != "limit":
                check(service, peer, asked[1], 100)
                check(service, peer, asked[100], 5)
            time.sleep(1)
            found.memory_mb = service.memory_mb()
            for name in options.scenarios:
                rows, connections = SCENARIOS[name]
                load(service, paths[rows], connections, options.warm_up)
                rounds = [load(service, paths[rows], connections, options.seconds) for _ in range(options.rounds)]
                found.rounds[name] = rounds
                _say(peer, name, found)
    except RuntimeError as error:
        found.problem = str(error)
        print(f"{peer.name}: {error}", file=sys.stderr, flush=True)
    return found


def _write(path: Path, peer: Any, several: list) -> Path:
    lines = [json.dumps(peer.body(rows), separators=(",", ":")) for rows, _, _ in several]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _say(peer: Any, name: str, found: Found) -> None:
    rate, p50, p99, cpu, others = (found.figure(name, f) for f in ("rate", "p50_ms", "p99_ms", "cpu_ms", "others_cores"))
    print(f"{peer.name:12s} {name:24s} {rate:9.1f}/s  p50 {p50:8.3f}  p99 {p99:8.3f}  processor {cpu:7.3f} ms  "
          f"errors {_errors(found, name)}  others {others:.2f} cores", file=sys.stderr, flush=True)


def _errors(found: Found, name: str) -> int:
    return int(sum(r["status"] + r["socket"] + r["timeout"] for r in found.rounds[name]))


# --- what is told -----------------------------------------------------------------------------------------------------


def table(model: str, all_found: dict[str, Found], options: argparse.Namespace) -> list[str]:
    """A table a scenario, and one of memory and start."""
    lines = []
    ours = all_found.get(OURS.name)
    for name in options.scenarios:
        lines += [f"### {name}", "", "| service | requests/s | p50, ms | p99, ms | processor, ms a request | errors | "
                  "ours is × as fast | others' cores |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
        for peer, found in all_found.items():
            if name not in found.rounds:
                continue
            rate, p50, p99, cpu, others = (found.figure(name, f) for f in ("rate", "p50_ms", "p99_ms", "cpu_ms", "others_cores"))
            ratio = f"{ours.figure(name, 'rate') / rate:.2f}" if ours and found is not ours else ""
            lines.append(f"| {peer} | {rate:,.1f} | {p50:.3f} | {p99:.3f} | {cpu:.3f} | {_errors(found, name)} | {ratio} | "
                         f"{others:.2f} |")
        lines.append("")
    lines += ["### Start and memory", "", "| service | from start to the first answer, s | idle memory, MB |", "|---|---:|---:|"]
    lines += [f"| {peer} | {found.ready_s:.1f} | {found.memory_mb:.0f} |" for peer, found in all_found.items() if found.ready_s]
    return [*lines, ""]


def targets(forest: dict[str, Found], function: dict[str, Found]) -> list[str]:
    """What was promised, and whether it was kept; empty where a service was left out."""
    peers = [found for name, found in forest.items() if name not in (OURS.name, "limit") and not found.problem]
    if not {OURS.name, "limit", "litserve"} <= set(forest) or not function.get(OURS.name) or not peers:
        return []
    ours, one, eight, many = forest[OURS.name], *list(SCENARIOS)[:3]
    best = {s: max(p.figure(s, "rate") for p in peers) for s in SCENARIOS}
    ratio = {s: ours.figure(s, "rate") / best[s] for s in SCENARIOS}
    limit = ours.figure(one, "rate") / forest["limit"].figure(one, "rate")
    lite = ours.figure(eight, "rate") / forest["litserve"].figure(eight, "rate")
    p99, p50 = ours.figure(one, "p99_ms"), min(p.figure(one, "p50_ms") for p in peers)
    slowest = min(function[OURS.name].figure(s, "rate") / function["fastapi"].figure(s, "rate") for s in SCENARIOS)
    asked = [
        ("1 connection, 1 row: requests/s against the best peer", "≥ 40 ×", f"{ratio[one]:.1f} ×", ratio[one] >= 40),
        ("1 connection, 1 row: our p99 against the lowest p50 of a peer", "below", f"{p99:.2f} against {p50:.2f} ms", p99 < p50),
        ("8 connections, 1 row: requests/s against LitServe", "≥ 15 ×", f"{lite:.1f} ×", lite >= 15),
        ("1 connection, 1 row: requests/s against the limit", "≥ 60 %", f"{limit:.0%}", limit >= 0.6),
        ("1 connection, 100 rows: requests/s against the best peer", "≥ 5 ×", f"{ratio[many]:.1f} ×", ratio[many] >= 5),
        ("a model that cannot be converted: the worst ratio to FastAPI", "≥ 1 ×", f"{slowest:.2f} ×", slowest >= 1),
    ]
    rows = [f"| {what} | {must} | {got} | {'yes' if kept else '**no**'} |" for what, must, got, kept in asked]
    return ["## Targets", "", "| what | must be | found | kept |", "|---|---|---|---|", *rows, ""]


def page(results: dict[str, dict[str, Found]], options: argparse.Namespace, load_before: float) -> str:
    """The evidence as Markdown."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = "one process each" if options.workers == 1 else f"{options.workers} processes each"
    told = {peer.name: peer.about for peer in PEERS}
    ours = "keys, checks and prediction log on; both labels and probabilities told"
    seen = {name: found for found in reversed(results.values()) for name, found in found.items()}
    services = [f"- **{name}** {found.version}: {told.get(name) or found.about or ours}"
                + (f". It could not be measured: {found.problem.splitlines()[0]}" if found.problem else "")
                for name, found in seen.items()]
    parts = [
        "# Speed of services", "",
        f"{datetime.date.today()}, Python {platform.python_version()}, scikit-learn {sklearn.__version__} in every environment, "
        f"{cores} cores that wrk shares. The machine's load was {load_before:.1f} before. `python benchmarks/serving.py`", "",
        f"The same fitted pipeline on 12 numeric and 4 categorical columns, {workers} (LitServe and MLServer have processes of "
        f"their own for the model besides). wrk posts {BODIES[1]} different bodies of one row, or {BODIES[100]} of 100 rows, in "
        f"turn, for {options.seconds:g} s after {options.warm_up:g} s of warm-up; the median of {options.rounds}. Before that, "
        f"100 single rows and 500 in hundreds are compared with the pipeline's answers (largest difference {TOLERANCE:g}). "
        "Processor: the time of all the service's processes. Others' cores: how many were busy with something else meanwhile. "
        "Memory is the proportional set size of all the service's processes.", "",
        *services, "", *targets(results.get("forest", {}), results.get("function", {})),
    ]
    for model, found in results.items():
        parts += [f"## {TITLES[model]}", "", *table(model, found, options)]
    return "\n".join(parts)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [peer.name for peer in (OURS, *PEERS)]
    parser.add_argument("--only", action="append", choices=known, help="this service only (may be repeated); writes nothing")
    parser.add_argument("--model", action="append", choices=list(PLAN), help="this model only; writes nothing")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="this scenario only; writes nothing")
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement")
    parser.add_argument("--warm-up", type=float, default=2, help="seconds before each scenario")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each scenario; the median counts")
    parser.add_argument("--workers", type=int, default=1, help="processes of each service")
    parser.add_argument("--timeout", type=float, default=120, help="seconds until a service must have answered")
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it: models, outputs, logs")
    parser.add_argument("--no-write", action="store_true", help="print the tables only")
    options = parser.parse_args()
    options.scenarios = options.scenario or list(SCENARIOS)
    return options


def main() -> None:
    options = read_options()
    if shutil.which("wrk") is None:
        raise SystemExit("serving: wrk must be on PATH. Install it from your distribution")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every service is ended
    os.environ |= {"BENTOML_DO_NOT_TRACK": "True"}
    load_before, results = os.getloadavg()[0], {}
    with tempfile.TemporaryDirectory(prefix="bench-serving-", ignore_cleanup_errors=True) as temporary:
        work = (options.keep or Path(temporary)).resolve()
        for model in options.model or PLAN:
            asked = make_asked(model)
            peers = [peer for peer in PLAN[model] if not options.only or peer.name in options.only]
            results[model] = {peer.name: measure(peer, model, asked, options, work) for peer in peers}
    text = page(results, options, load_before)
    if not (options.only or options.model or options.scenario or options.no_write):
        EVIDENCE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    start = time.monotonic()
    main()
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
