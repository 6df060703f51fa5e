"""What every target must do, and every check over each of them: plan, apply, status, logs, roll-back, destroy."""

import inspect
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import engine_parts
import pandas as pd
import pytest
from handmade_bundle import census, changed_copy, fitted_pipeline, turned_round
from hosts_over_ssh import Hosts, hosts_over_ssh
from kube_server import KubeServer
from traffic import traffic

from mlworkbench.bundling.build import build_bundle
from mlworkbench.bundling.verify import bundle_sha256
from mlworkbench.core.errors import GateFailed, InputError
from mlworkbench.core.jobs import Job
from mlworkbench.core.workspace import workspace
from mlworkbench.deployment import supervisor
from mlworkbench.deployment.advise import advise
from mlworkbench.deployment.deploy import Deployment, deploy, find_deployment, roll_back, stop_deployment
from mlworkbench.deployment.door import ask_door
from mlworkbench.deployment.keys import own_key
from mlworkbench.deployment.local import doors, revisions
from mlworkbench.deployment.measure import measure_bundle
from mlworkbench.deployment.plan import plan_deployment
from mlworkbench.deployment.stacks import Project
from mlworkbench.deployment.targets import find_target, target_names

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["age", "education", "sex"]
WRK = "Install it: apt-get install wrk"


@dataclass(frozen=True)
class Place:
    """A target under test: how to deploy there, and what of a name runs there at this moment."""

    target: str
    options: dict
    running: Callable[[str], list[str]]  # a word for each running thing that belongs to the name
    at_rest: int  # how many of them there are when one revision runs

    def name(self, word: str) -> str:
        """A name of its own for a test, since all targets share a workspace here."""
        return f"{word}-{self.target}"


def _local(name: str) -> list[str]:
    folder = workspace().deployments / name
    lives = [r for r in revisions(folder) if supervisor.supervisor_process(r) or supervisor.service_processes(r)]
    return [str(r) for r in lives] + [str(d) for d in doors(folder) if ask_door(d)]


def _docker() -> Place:
    engine = engine_parts.docker()
    return Place("docker", {}, lambda name: engine_parts.of_workspace(engine, workspace().root, name), 3)


def _podman() -> Place:
    """With what Docker built, where it built some: that Podman builds the same has its own test."""
    engine = engine_parts.podman()
    engine_parts.copy_images(BUNDLES[:2], engine)
    return Place("podman", {"memory_mb": 600}, lambda name: engine_parts.of_workspace(engine, workspace().root, name), 3)


def _compose() -> Place:
    """Proxy and service; what watches them has its own test."""
    engine_parts.docker()
    return Place("compose", {}, lambda name: sorted(Project(workspace().deployments / name).ids()), 2)


DOUBLE: list[KubeServer] = []  # the test double of a cluster


def _kubernetes(name: str) -> list[str]:
    found = [one for kind in ("Deployment", "Pod", "Service") for one in DOUBLE[0].of(kind)]
    mine = [one for one in found if one["metadata"]["annotations"]["mlworkbench.org/deployment"] == name]
    return sorted(f"{one['kind']} of {one['metadata']['annotations']['org.mlworkbench.bundle.sha256']}" for one in mine)


HOSTS: list[Hosts] = []  # real ssh servers on this machine
BUNDLES: list[str] = []  # the certificates' hashes of those that are deployed

SETTINGS = {
    "CONTAINERS_RATE_LIMIT": "0", "CONTAINERS_PROMETHEUS_IMAGE": "",
    "CONTAINERS_ALERTMANAGER_IMAGE": "", "CONTAINERS_GRAFANA_IMAGE": "",
    "DEPLOYMENT_KUBERNETES_IMAGE": "registry.test/{name}:{version}",
}
PLACES = {
    "local": lambda: Place("local", {"environment": "current"}, _local, 2),
    "docker": _docker, "podman": _podman, "compose": _compose,
    "kubernetes": lambda: Place("kubernetes", {}, _kubernetes, 3),
    "ssh": lambda: Place("ssh", {"environment": "current"}, HOSTS[0].running, 2),
}
for named in filter(None, os.environ.get("MLW_PLACES", "").split(",")):  # targets of other packages
    PLACES[named.rpartition(":")[2]] = pkgutil.resolve_name(named)
OFTEN = ("local", "docker")  # where `make test` kills and loads; `make soak` does everywhere
PAGE = ROOT / "docs" / "targets.md"


def is_heavy(arguments: Iterable[str]) -> bool:
    return bool({"size", "measured"} & set(arguments))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every check over every target."""
    if "place" in metafunc.fixturenames:
        heavy = is_heavy(metafunc.fixturenames) and not os.environ.get("MLW_SOAK")
        metafunc.parametrize("place", OFTEN if heavy else list(PLACES), indirect=True)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return census(600)[0][COLUMNS]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, rows) -> Iterator[list[str]]:
    """Two good bundles of one name, and one whose golden rows say the opposite; in a workspace of this module's own."""
    folder = tmp_path_factory.mktemp("targets").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        patch.delenv("MLWORKBENCH_SETTINGS", raising=False)
        for name, value in [*engine_parts.SETTINGS.items(), *((f"MLWORKBENCH_{word}", told) for word, told in SETTINGS.items())]:
            patch.setenv(name, value)
        y = census(600)[1]
        models = [fitted_pipeline(rows, y), fitted_pipeline(rows, y, trees=3)]
        found = [build_bundle(m, name="people", examples=rows, environment="current", golden_rows=16).path for m in models]
        wrong = changed_copy(found[1], folder / "wrong" / Path(found[1]).name, "golden.json", turned_round)
        every = [*found, str(wrong)]
        with KubeServer(folder / "pods", {bundle_sha256(Path(one)): Path(one) for one in every}) as double:
            patch.setenv("KUBECONFIG", str(double.kubeconfig(folder / "kubeconfig")))
            patch.setenv("MLWORKBENCH_DEPLOYMENT_KUBERNETES_URL", double.front.replace("127.0.0.1", "localhost"))
            DOUBLE[:], BUNDLES[:] = [double], [bundle_sha256(Path(one)) for one in every]
            yield every
        engine_parts.remove_images(BUNDLES)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory, need, bundles) -> Iterator[Hosts]:
    """One host; at the end no process of it may be left."""
    sshd = need("sshd", "Install it: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("hosts").resolve()
    with hosts_over_ssh(sshd, folder, ("one",)) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_DEPLOYMENT_SSH_INVENTORY", str(found.inventory))
        HOSTS[:] = [found]
        yield found


@pytest.fixture
def place(request, bundles, monkeypatch) -> Iterator[Place]:
    """Each target; whatever a test leaves running there under its own name is ended, and nothing may be left then."""
    if request.param == "ssh":
        request.getfixturevalue("hosts")
    for word, told in engine_parts.NARROW.items() if request.param == "podman" else ():
        monkeypatch.setenv(word, told)
    here = PLACES[request.param]()
    yield here
    for artifact in workspace().ledger.artifacts("deployment"):
        if artifact.details["target"] == here.target:
            stop_deployment(artifact.name)
            assert here.running(artifact.name) == []


def up(place: Place, bundle: str, name: str, **options: object) -> Deployment:
    return deploy(bundle, name=name, target=place.target, **place.options, **options)


def planned(place: Place, bundle: str, name: str) -> str:
    return plan_deployment(bundle, name=name, target=place.target, **place.options).plan.action


def callers(place: Place, served: Deployment, rows: pd.DataFrame, wrk: str, folder: Path, connections: int = 8):
    sent = json.loads(rows.head(2).to_json(orient="records"))
    return traffic(wrk, served.url, sent, own_key(Path(served.details["folder"])), folder, connections)


def test_a_deployment_is_planned_made_changed_taken_back_and_ended(place, bundles, rows):
    name = place.name("life")
    assert planned(place, bundles[0], name) == "create" and place.running(name) == []
    first = up(place, bundles[0], name)
    assert first.status()["state"] == "running" and len(place.running(name)) == place.at_rest
    answers = first.predict(rows.head(20))
    assert planned(place, bundles[0], name) == "nothing" and planned(place, bundles[1], name) == "update"
    before = place.running(name)
    again = up(place, bundles[0], name)
    assert again.details["revision"] == first.details["revision"] and place.running(name) == before
    second = up(place, bundles[1], name)
    assert second.url == first.url and second.details["bundle"] != first.details["bundle"]
    assert len(place.running(name)) == place.at_rest
    assert second.predict(rows.head(20))["probability_yes"].tolist() != answers["probability_yes"].tolist()
    for change in (lambda: up(place, bundles[0], name), lambda: roll_back(name)):
        with workspace().lock("deployment", name), pytest.raises(InputError, match="one run at a time"):
            change()
    back = roll_back(name)
    assert back.details["bundle"] == first.details["bundle"] and back.url == first.url
    assert back.predict(rows.head(20))["probability_yes"].tolist() == answers["probability_yes"].tolist()
    assert [e["action"] for e in back.details["history"]] == ["create", "nothing", "update", "rollback"]
    assert back.logs(5).strip()
    back.stop()
    assert place.running(name) == [] and back.status()["state"] in ("stopped", "not running")
    back.stop()
    assert planned(place, bundles[0], name) == "update"
    assert up(place, bundles[0], name).status()["state"] == "running"


def cancelled(place: Place, bundle: str, name: str) -> None:
    """Begin a deployment, and cancel it when the new one is up, or about to be."""
    words = find_target(place.target).steps[2:4]
    job = Job(deploy, bundle=bundle, name=name, target=place.target, **place.options).start()
    end = time.monotonic() + 60
    while not any(word in job.text for word in words) and time.monotonic() < end and job.state == "running":
        time.sleep(0.02)
    job.cancel()
    assert job.wait(60) and job.state == "cancelled"


def test_what_is_not_proved_or_is_cancelled_never_takes_over_and_leaves_nothing(place, bundles, rows):
    name = place.name("gate")
    served = up(place, bundles[0], name)
    before = place.running(name)
    with pytest.raises(GateFailed, match="notebook's predictions"):
        up(place, bundles[2], name)
    assert place.running(name) == before and find_deployment(name).details == served.details
    cancelled(place, bundles[1], name)
    assert place.running(name) == before and find_deployment(name).details == served.details
    assert not (workspace().deployments / name / "applying.json").exists()
    assert len(served.predict(rows.head(3))) == 3
    with pytest.raises(GateFailed):
        up(place, bundles[2], f"{name}-alone")
    assert place.running(f"{name}-alone") == [] and workspace().ledger.get("deployment", f"{name}-alone") is None


KILL = (
    "import os, signal, sys\n"
    "from mlworkbench.deployment.deploy import deploy\n"
    "from mlworkbench.deployment.steps import Steps\n"
    "told, count, last = Steps.__call__, 0, int(sys.argv[4])\n"
    "def step(self, words):\n"
    "    global count\n"
    "    told(self, words)\n"
    "    count += 1\n"
    "    if count == last: os.kill(os.getpid(), signal.SIGKILL)\n"
    "Steps.__call__ = step\n"
    "import json; deploy(sys.argv[1], name=sys.argv[2], target=sys.argv[3], **json.loads(sys.argv[5]))\n"
)


def killed(place: Place, bundle: str, name: str, step: int) -> bool:
    """Whether a deployment that is killed as it comes to its `step`-th step came so far."""
    command = [sys.executable, "-c", KILL, bundle, name, place.target, str(step), json.dumps(place.options)]
    return subprocess.run(command, cwd=ROOT, timeout=180).returncode == -signal.SIGKILL


def chosen_steps(place: Place, number: int) -> list[int]:
    """Which steps to be killed at: from the last one on, where the most is at stake, evenly to the first."""
    last = len(find_target(place.target).steps)
    return [last - round(i * (last - 1) / max(1, min(number, last))) for i in range(min(number, last))]


def test_one_that_is_killed_at_any_step_is_put_right_by_the_next_and_the_old_one_serves_throughout(
    place, bundles, rows, tmp_path, need, size, measured
):
    name = place.name("kill")
    wrk, steps = need("wrk", WRK), chosen_steps(place, size("deployment_kills"))
    served, seen, runs = up(place, bundles[0], name), 0, 0
    for number, step in enumerate(steps):
        with callers(place, served, rows, wrk, tmp_path, 4) as heard:
            assert killed(place, bundles[1 - runs], name, step), f"step {step} was never come to"
            assert "ended in the middle of" in find_deployment(name).status()["note"]
            runs = 1 - runs if number % 2 else runs  # whoever comes next may as well want what ran before
            after = up(place, bundles[runs], name)
        assert heard.failed == 0 and heard.requests > 10, (step, heard.told)
        assert len(place.running(name)) == place.at_rest, step
        assert after.status()["state"] == "running" and "note" not in after.status()
        assert after.details["bundle"].endswith(Path(bundles[runs]).name)
        assert len(after.predict(rows.head(2))) == 2 and planned(place, bundles[runs], name) == "nothing"
        seen += heard.requests
    measured(target=place.target, steps=len(steps), requests_meanwhile=seen, failed=0)


def test_an_update_and_a_rollback_under_load_fail_no_request(place, bundles, rows, tmp_path, need, size, measured):
    name = place.name("load")
    wrk = need("wrk", WRK)
    served = up(place, bundles[0], name)
    began = time.monotonic()
    with callers(place, served, rows, wrk, tmp_path, 16) as heard:
        rounds = 0
        while not rounds or time.monotonic() - began < size("deployment_load_s"):
            up(place, bundles[1], name)
            roll_back(name)
            rounds += 1
    seconds = time.monotonic() - began
    assert heard.failed == 0 and heard.requests > 100, heard.told
    assert find_deployment(name).details["bundle"] == served.details["bundle"]
    measured(target=place.target, seconds=round(seconds), updates_and_rollbacks=rounds, requests=heard.requests,
             requests_per_s=round(heard.requests / seconds), failed=heard.failed)


def test_every_target_says_what_it_would_do_and_in_which_steps(place, bundles):
    name = place.name("plan")
    plan = plan_deployment(bundles[0], name=name, target=place.target, **place.options)
    assert plan.status == "skipped" and plan.plan.steps == find_target(place.target).steps and len(plan.plan.steps) > 3
    assert any(c.what == "bundle" and c.now == "" for c in plan.plan.changes)
    assert not (workspace().deployments / name / "applying.json").exists() and place.running(name) == []
    assert os.listdir(workspace().deployments).count(name) == 0


def test_advice_is_measured_and_its_options_are_what_deploy_takes(bundles, monkeypatch):
    monkeypatch.setattr(measure_bundle, "__kwdefaults__", {**measure_bundle.__kwdefaults__, "seconds": 0.3})
    found = advise(bundles[0], latency_ms=500, requests_per_s=5, offline=True, environment="current")
    assert found.options.pop("target") == "local" and found.options["replicas"] == 1 and found.options["memory_mb"] >= 64
    assert 0 < found.needs["cpu_ms"] < 1000 and found.needs["batch_cpu_ms"] < found.needs["cpu_ms"] and not found.concerns
    assert set(found.options) <= set(inspect.signature(deploy).parameters)
    assert all(decision.why for decision in found.decisions) and found.decisions[0].why in found.headline()
    with pytest.raises(InputError, match="at least 0"):
        advise(bundles[0], latency_ms=-1)
    scaled = {"replicas": 2, "max_replicas": 6, "cpu_percent": 60}
    plan = plan_deployment(bundles[0], name="advised", target="kubernetes", **scaled).plan
    assert "2 to 6, by 60 % of cpu" in [change.then for change in plan.changes]


@pytest.mark.skipif("MLW_PLACES" in os.environ, reason="the table is about our own targets")
def test_the_documented_table_is_what_runs():
    rows = [f"| it holds that | {' | '.join(f'`{name}`' for name in PLACES)} |", "|---|" + "---|" * len(PLACES)]
    for name, check in list(globals().items()):
        if name.startswith("test_") and "place" in (asked := inspect.signature(check).parameters):
            often = OFTEN if is_heavy(asked) else PLACES
            cells = ["each run" if place in often else "soak" for place in PLACES]
            rows.append(f"| {name.removeprefix('test_').replace('_', ' ')} | {' | '.join(cells)} |")
    page, table = PAGE.read_text(encoding="utf-8"), "\n".join(rows)
    wanted = re.sub(r"(?s)(?<=<!-- contract -->\n).*?(?=<!-- end -->)", f"{table}\n", page)
    if os.environ.get("MLW_WRITE"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == wanted


def test_a_target_of_another_package_is_deployed_to_like_our_own(bundles, rows, tmp_path, monkeypatch):
    distribution = tmp_path / "elsewhere-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text("[mlworkbench.targets]\nelsewhere = elsewhere:Elsewhere\n")
    code = ["from mlworkbench.deployment.local import LocalTarget", "class Elsewhere(LocalTarget):", "    name = 'elsewhere'", ""]
    (tmp_path / "elsewhere.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(tmp_path)
    assert "elsewhere" in target_names()
    place = Place("elsewhere", {"environment": "current"}, _local, 2)
    test_a_deployment_is_planned_made_changed_taken_back_and_ended(place, bundles, rows)
    find_deployment(place.name("life")).stop()
    assert place.running(place.name("life")) == []
