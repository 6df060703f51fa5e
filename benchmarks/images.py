"""How large is an image, how fast is it built and ready, beside `bentoml containerize`? Writes docs/evidence/images.md.

The same fitted pipelines as in `serving.py`, on the same base image: once as a plain BentoML service with scikit-learn and
pandas (`images_plain/service.py`), built by `bentoml containerize`; once as this project's bundle. Needs Docker and the base
image that `--base` names (tests/base_image.sh makes one).
"""

import argparse
import contextlib
import datetime
import http.client
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from serving_peers import pipeline

import mlworkbench as mlw
from mlworkbench.bundling.build import Bundle
from mlworkbench.bundling.environment import find_uv
from mlworkbench.containers.engine import Engine, ca_file, find_engine, start_container
from mlworkbench.containers.image import prove_image

EVIDENCE = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "images.md"
PLAIN = Path(__file__).resolve().parent / "images_plain"
MODELS = {"forest": "served converted to ONNX", "function": "cannot be converted: served by scikit-learn"}
TARGETS = {"forest": 1 / 3, "function": 1 / 2}
BUILDS = ("nothing cached", "another model", "nothing changed")
OURS = """
import sys
from pathlib import Path
from mlworkbench.bundling.build import load_bundle
from mlworkbench.containers.dockerfile import base_image_of, render_dockerfile
from mlworkbench.containers.engine import find_engine
from mlworkbench.containers.image import build_image
bundle = load_bundle(Path(sys.argv[1]))
print(build_image(find_engine(), bundle, render_dockerfile(bundle), base_image_of(bundle)))
"""


@dataclass
class Found:
    """What was found of one image."""

    size_mb: float = 0.0
    built_s: dict[str, float] = field(default_factory=dict)
    ready_s: list[float] = field(default_factory=list)
    proof_s: float = 0.0

    @property
    def ready(self) -> float:
        return statistics.median(self.ready_s)


def make_base(engine: Engine, base: str, work: Path) -> str:
    """The base with uv, which BentoML's Dockerfile needs and would bring by pip, and with this machine's authorities."""
    name = "bench-images-base:1"
    shutil.copy(find_uv(), work / "uv")
    authorities = ca_file()
    (work / "ca.crt").write_bytes(authorities.read_bytes() if authorities else b"")
    lines = [f"FROM {base}", "COPY uv /usr/local/bin/uv"]
    if authorities:
        place = "/etc/ssl/certs/ca-certificates.crt"
        lines += [f"COPY ca.crt {place}", f"ENV SSL_CERT_FILE={place}"]
    (work / "Dockerfile").write_text("\n".join(lines) + "\n")
    engine.run("build", "--tag", name, work)
    return name


def timed(command: list, environ: dict[str, str], cwd: Path) -> tuple[float, str]:
    """Seconds of a command, and its last line."""
    began = time.monotonic()
    done = subprocess.run(command, env=environ, cwd=cwd, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"{command[:4]} must end well, got:\n{(done.stdout + done.stderr)[-3000:]}")
    return time.monotonic() - began, (done.stdout.strip().splitlines() or [""])[-1]


def say(*told: object) -> None:
    print(*told, file=sys.stderr, flush=True)


def size_mb(engine: Engine, image: str) -> float:
    return int(engine.run("image", "inspect", "--format", "{{.Size}}", image).output) / 1e6


def ready(engine: Engine, image: str, rows: list[dict], labels: list[str], options: tuple[str, ...]) -> float:
    """Seconds from `run` to the first answer, which must be the pipeline's."""
    body, key = json.dumps({"rows": rows}).encode(), "a-key-for-the-benchmark"
    began = time.monotonic()
    with start_container(engine, image, environment={"MLW_API_KEY": key}, options=options) as container:
        told = {"Content-Type": "application/json", "X-Api-Key": key}
        request = urllib.request.Request(f"{container.url}/predict", data=body, headers=told)
        while time.monotonic() - began < 300:
            with contextlib.suppress(OSError, http.client.HTTPException):
                with urllib.request.urlopen(request, timeout=30) as answer:
                    if json.load(answer)["predictions"] != labels:
                        raise RuntimeError("the labels must be the pipeline's")
                    return time.monotonic() - began
            time.sleep(0.02)
        raise RuntimeError(f"it must answer, got:\n{container.tail()}")


def other(model: str) -> object:
    """The same pipeline, fitted on fewer rows: another model."""
    X, y = pipeline.training()
    return pipeline.MODELS[model]().fit(X[:4000], y[:4000])


def plain(engine: Engine, model: str, fitted: list, base: str, work: Path, made: list[str]) -> Found:
    """Build the plain service's image: cold, with another model, unchanged."""
    import bentoml  # noqa: F401  (it must be installed)

    place, found = work / f"plain-{model}", Found()
    shutil.copytree(PLAIN, place)
    packages = [f"{name}=={metadata.version(name)}" for name in ("scikit-learn", "pandas")]
    text = (PLAIN / "service.py").read_text(encoding="utf-8")
    written = re.sub(r"(?m)^BASE, PACKAGES = .*$", f"BASE, PACKAGES = {base!r}, {packages!r}", text)
    (place / "service.py").write_text(written, encoding="utf-8")
    programs = Path(sys.executable).parent
    environ = {**os.environ, "BENTOML_HOME": str(work / f"home-{model}"), "DOCKER_BUILDKIT": "1",
               "PATH": f"{programs}:{os.environ['PATH']}"}
    save = "import bentoml, joblib, sys; bentoml.sklearn.save_model('model', joblib.load(sys.argv[1]))"
    tag = f"bench-plain-{model}:1"
    made.append(tag)
    for name, thing in zip(BUILDS, [fitted[1], fitted[0], None], strict=True):
        if thing is not None:
            import joblib

            joblib.dump(thing, work / "model.joblib")
            timed([sys.executable, "-c", save, work / "model.joblib"], environ, place)
            bento = timed([programs / "bentoml", "build", "--output", "tag", "."], environ, place)[1].removeprefix("__tag__:")
        words = ["--opt", "no-cache"] if name == BUILDS[0] else []
        found.built_s[name] = timed([programs / "bentoml", "containerize", bento, "-t", tag, *words], environ, place)[0]
    found.size_mb = size_mb(engine, tag)
    say(model, "plain", found)
    return found


def ours(engine: Engine, model: str, bundles: list[Bundle], base: str, work: Path, made: list[str]) -> tuple[Found, str]:
    """Build the bundle's image: cold, with another model, unchanged; then prove it."""
    found, image = Found(), ""
    for name, bundle in zip(BUILDS, [bundles[1], bundles[0], bundles[0]], strict=True):
        options = "[--no-cache]" if name == BUILDS[0] else "[]"
        environ = {**os.environ, "MLWORKBENCH_CONTAINERS_BASE_IMAGE": base, "MLWORKBENCH_CONTAINERS_BUILD_OPTIONS": options}
        found.built_s[name], image = timed([sys.executable, "-c", OURS, bundle.path], environ, work)
        if image not in made:
            made.append(image)
    found.size_mb, began = size_mb(engine, image), time.monotonic()
    prove_image(engine, image, bundles[0])
    found.proof_s = time.monotonic() - began
    say(model, "ours", found)
    return found, image


def compare(engine: Engine, model: str, base: str, work: Path, starts: int, made: list[str]) -> tuple[Found, Found]:
    """Both images of a model, built and started in turn."""
    fitted = [pipeline.fitted(model), other(model)]
    examples, rows = pipeline.table(500, seed=3, missing=0.03), pipeline.table(5, seed=4)
    bundles = [mlw.build_bundle(thing, name=f"bench-{model}", examples=examples) for thing in fitted]
    if (bundles[0].engine == "onnxruntime") != (model == "forest"):
        raise RuntimeError(f"{model} is {MODELS[model]}, got {bundles[0].engine}")
    theirs = plain(engine, model, fitted, base, work, made)
    own, image = ours(engine, model, bundles, base, work, made)
    told, labels = rows.to_dict("records"), fitted[0].predict(rows).tolist()
    for _ in range(starts):
        # the plain image keeps its models in BentoML's home, where it writes as well: no read-only file system
        for found, name, options in ((theirs, f"bench-plain-{model}:1", ("--read-only=false",)), (own, image, ())):
            found.ready_s.append(ready(engine, name, told, labels, options))
    say(model, "ready", theirs.ready_s, own.ready_s)
    return theirs, own


# --- what is told -----------------------------------------------------------------------------------------------------


def table(theirs: Found, own: Found) -> list[str]:
    head = ["image", "size, MB", *(f"built, {name}, s" for name in BUILDS), "from start to the first answer, s"]
    rows = [[name, f"{f.size_mb:.0f}", *(f"{f.built_s[b]:.1f}" for b in BUILDS), f"{f.ready:.2f}"]
            for name, f in (("`bentoml containerize`", theirs), ("mlworkbench", own))]
    return ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1), *("| " + " | ".join(r) + " |" for r in rows), "",
            f"The proof after ours (golden rows, every route, health check) takes {own.proof_s:.1f} s more.", ""]


def targets(found: dict[str, tuple[Found, Found]]) -> list[str]:
    rows = []
    for model, (theirs, own) in found.items():
        rows.append((f"{model}: size", TARGETS[model], own.size_mb / theirs.size_mb))
        rows.append((f"{model}: from start to the first answer", 1.0, own.ready / theirs.ready))
        rows += [(f"{model}: built, {name}", 1.0, own.built_s[name] / theirs.built_s[name]) for name in BUILDS]
    lines = [f"| {what} | ≤ {most:.2f} × | {got:.2f} × | {'yes' if got <= most else '**no**'} |" for what, most, got in rows]
    return ["## Targets", "", "| what | must be | found | kept |", "|---|---|---|---|", *lines, ""]


def page(found: dict[str, tuple[Found, Found]], options: argparse.Namespace, engine: Engine, load: float) -> str:
    parts = [
        "# Images", "",
        f"{datetime.date.today()}, Docker {engine.version}, BentoML {metadata.version('bentoml')}, scikit-learn "
        f"{metadata.version('scikit-learn')}, Python {platform.python_version()}, {os.cpu_count()} cores. The machine's load was "
        f"{load:.1f} before. `python benchmarks/images.py`", "",
        "The same fitted pipeline on the same base (Debian 12 with Python 3.11; uv is in it, since BentoML's Dockerfile needs it "
        "and would bring it by pip). Sizes are uncompressed, as the engine counts them. Built: from the command to the image, "
        "each with its program's own start; `nothing cached` builds with `--no-cache`, downloads come from the cache mount of "
        "both; `another model` changes the model alone: ours starts its service in the builder, to see what it uses, where the "
        "plain one runs nothing. Started in turn, without capabilities, and ours read-only (the plain one writes where its "
        "models lie); the median of "
        f"{options.starts}. The first answer is compared with the pipeline's.", "", *targets(found),
    ]
    for model, pair in found.items():
        parts += [f"## {model}: {MODELS[model]}", "", *table(*pair)]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="mlw-base:py311", help="the base image, with Python 3.11 and its venv module")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="this model only; writes nothing")
    parser.add_argument("--starts", type=int, default=5, help="starts of each image; the median counts")
    parser.add_argument("--no-write", action="store_true", help="print the page only")
    options = parser.parse_args()
    engine, made, load = find_engine(), [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-images-", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        os.environ |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(work / "home"),
                       "MLWORKBENCH_WORKSPACE": str(work / "workspace")}
        (work / "base").mkdir()
        try:
            base = make_base(engine, options.base, work / "base")
            found = {model: compare(engine, model, base, work, options.starts, made) for model in options.model or MODELS}
        finally:
            for image in [*made, "bench-images-base:1"]:
                engine.clean("rmi", "--force", image)
    text = page(found, options, engine, load)
    if not (options.model or options.no_write):
        EVIDENCE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
