"""A bundle that somebody changed after it was proved, started by plain `bentoml serve`, past every launcher of ours: it
refuses with the reason wherever the service itself can see it, and is not started again and again. And pickles that
nobody trusted: never loaded."""

import contextlib
import functools
import json
import os
import pickle
import random
import shutil
import time
from pathlib import Path

import httpx
import pytest
import skops.io
from handmade_bundle import Served, census, census_bundle, fitted_pipeline, json_rows

import mlworkbench as mlw
from mlworkbench.bundling.verify import verify_bundle
from mlworkbench.core.errors import WorkbenchError
from mlworkbench.serving.application import Application
from mlworkbench.serving.integrity import content_sha256, sha256_file

KEY = "a-key-for-tests-only"
# what BentoML reads or nobody does at serve time: only `mlworkbench verify` and our launchers look at these
UNSEEN = ("README.md", "bento.yaml", "env/", "apis/", "src/certificate.json")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A real bundle, proved in this environment."""
    folder = tmp_path_factory.mktemp("built")
    X, y = census(500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        bundle = mlw.build_bundle(fitted_pipeline(X, y), name="changed", examples=X, environment="current", golden_rows=20)
    return Path(bundle.path)


def flip(path: Path, rng: random.Random) -> None:
    """Another bit pattern in one byte of a file."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(7)
    path.write_bytes(data)


def outcome(served: Served, row: dict, wait_s: float = 25.0) -> str:
    """What came of a start: ``ended``, ``answers``, or why it refuses (in its answers or, where these are broken, in its log)."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if served.process.poll() is not None:
            return "ended"
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(f"{served.url}/predict", json={"rows": [row]}, headers={"authorization": f"Bearer {KEY}"})
            if answer.status_code == 200:
                return "answers"
            if answer.status_code == 503 and "being loaded" not in answer.text:
                assert answer.headers["retry-after"]
                assert httpx.get(f"{served.url}/livez").status_code == 200
                return answer.json()["errors"][0]["problem"]
        time.sleep(0.1)
    told = [line for line in served.output.read_text().splitlines() if "refusing to serve" in line]
    assert told, served.output.read_text()[-3000:]
    return told[0]


def check_calm(served: Served) -> None:
    """The same workers as before, a second later: none is started again and again."""
    before = served.workers()
    time.sleep(1)
    assert served.workers() == before and len(before) == 1
    told = served.output.read_text()
    assert told.count("refusing to serve") == 1 or "Logging error" in told  # the changed byte may be the log's own code


def test_a_flipped_byte_in_any_file_is_seen_by_the_service_itself(built, tmp_path, size, measured):
    rng, row = random.Random(5), json_rows(census(1)[0])[0]
    names = sorted(p.relative_to(built).as_posix() for p in built.rglob("*")
                   if p.is_file() and "__pycache__" not in p.parts and p.stat().st_size)
    fixed = ["src/manifest.json", "src/service.py"]
    rest = [name for name in names if name not in fixed]
    told: dict[str, str] = {}
    for name in fixed + rng.sample(rest, min(size("serving_flipped_files"), len(rest))):
        copy = Path(shutil.copytree(built, tmp_path / f"copy-{len(told)}"))
        flip(copy / name, rng)
        served = Served(copy, home=tmp_path, MLW_API_KEY=KEY)
        try:
            told[name] = outcome(served.launch(), row)
            if told[name] not in ("ended", "answers"):
                check_calm(served)
        finally:
            served.kill()
    for name, found in told.items():
        assert found != "answers" or name.startswith(UNSEEN), name
        # a changed hash is told of the file whose hash it is
        judges = "manifest" in found or "certificate's" in found and name.endswith("certificate.json")
        assert found in ("ended", "answers") or Path(name).name in found or judges, (name, found)
    measured(files=len(told), refused=sum(found not in ("ended", "answers") for found in told.values()),
             ended=list(told.values()).count("ended"), only_seen_from_outside=[n for n, f in told.items() if f == "answers"])


# --- pickles --------------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.canary,))


@pytest.fixture
def canary(tmp_path) -> Path:
    """A file that is there when a planted pickle was loaded."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists()  # it works
    canary.unlink()
    return canary


@pytest.fixture
def handmade(tmp_path) -> Path:
    return census_bundle(tmp_path / "census")


def refusal(folder: Path) -> str:
    application = Application(folder, {"MLW_API_KEY": KEY}).start()
    assert application.refusal and application.permanent
    return application.refusal


def test_a_pickle_in_place_of_the_model_is_not_loaded(handmade, canary):
    (handmade / "model/model.skops").write_bytes(pickle.dumps(Bomb(canary)))
    assert "model/model.skops was changed" in refusal(handmade) and not canary.exists()


def test_nor_is_it_where_the_manifest_was_written_anew_to_match(handmade, canary):
    path = handmade / "model/model.skops"
    whole = path.read_bytes()
    manifest = json.loads((handmade / "manifest.json").read_text())
    path.write_bytes(pickle.dumps(Bomb(canary)))
    files = manifest["files"] | {"model/model.skops": sha256_file(path)}
    rewrite(handmade, manifest | {"files": files})
    assert "cannot be loaded" in refusal(handmade) and not canary.exists()
    path.write_bytes(whole)
    rewrite(handmade, manifest)
    assert Application(handmade, {"MLW_API_KEY": KEY}).start().refusal is None


def test_a_skops_file_that_calls_what_the_manifest_does_not_name_is_not_loaded(handmade, canary):
    skops.io.dump(functools.partial(os.mkdir, str(canary)), handmade / "model/model.skops")
    manifest = json.loads((handmade / "manifest.json").read_text())
    files = manifest["files"] | {"model/model.skops": sha256_file(handmade / "model/model.skops")}
    rewrite(handmade, manifest | {"files": files})
    refusal(handmade)
    assert not canary.exists()


def rewrite(folder: Path, manifest: dict) -> None:
    """A manifest that agrees with itself."""
    manifest = {key: value for key, value in manifest.items() if key != "content_sha256"}
    text = json.dumps(manifest | {"content_sha256": content_sha256(manifest)})
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def test_a_bundle_written_anew_around_a_pickle_is_started_by_no_launcher(built, canary, tmp_path, monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_WORKSPACE", str(built.parents[3] / "workspace"))
    monkeypatch.setenv("BENTOML_HOME", str(built.parents[2]))
    copy = Path(shutil.copytree(built, tmp_path / "copy"))
    manifest = json.loads((copy / "src/manifest.json").read_text())
    name = manifest["model"]["file"]
    (copy / "src" / name).write_bytes(pickle.dumps(Bomb(canary)))
    about = manifest["model"] | {"format": "joblib"}
    rewrite(copy / "src", manifest | {"model": about, "files": manifest["files"] | {name: sha256_file(copy / "src" / name)}})
    assert any("manifest.json" in fault for fault in verify_bundle(copy))
    with pytest.raises(WorkbenchError, match="the one that was proved"):
        mlw.deploy(str(copy), name="planted", target="local")
    assert not canary.exists()
