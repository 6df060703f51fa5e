"""Hosts over ssh: one after the other, proved on each, undone on all; real ssh servers and Ansible on this machine."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from handmade_bundle import census, fitted_pipeline
from hosts_over_ssh import Hosts, hosts_over_ssh

from mlworkbench.bundling.build import build_bundle
from mlworkbench.core.errors import InputError, MissingPart, WorkbenchError
from mlworkbench.core.resources import resource
from mlworkbench.core.workspace import workspace
from mlworkbench.deployment.client import Client
from mlworkbench.deployment.deploy import Deployment, deploy, find_deployment, stop_deployment
from mlworkbench.deployment.keys import own_key
from mlworkbench.deployment.plan import plan_deployment
from mlworkbench.deployment.ssh import fetch_log
from mlworkbench.deployment.targets import find_target
from mlworkbench.serving.log import read_records

COLUMNS = ["age", "education", "sex"]
SETTING = "MLWORKBENCH_DEPLOYMENT_SSH_INVENTORY"


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return census(600)[0][COLUMNS]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, rows) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("ssh").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        patch.delenv("MLWORKBENCH_SETTINGS", raising=False)
        models = [fitted_pipeline(rows, census(600)[1], trees=trees) for trees in (0, 3)]
        yield [build_bundle(m, name="people", examples=rows, environment="current", golden_rows=16).path for m in models]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory, need, bundles) -> Iterator[Hosts]:
    """Two hosts; whatever is deployed there is ended, and no process of them may be left."""
    sshd = need("sshd", "Install it: apt-get install openssh-server")
    with hosts_over_ssh(sshd, tmp_path_factory.mktemp("hosts").resolve()) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv(SETTING, str(found.inventory))
        yield found
        for artifact in workspace().ledger.artifacts("deployment"):
            stop_deployment(artifact.name)
            assert found.running(artifact.name) == []


def up(bundle: str, name: str, **options: object) -> Deployment:
    return deploy(bundle, name=name, target="ssh", environment="current", **options)


def answers(served: Deployment, rows: pd.DataFrame) -> list[list[float]]:
    """What each host answers."""
    key = own_key(Path(served.details["folder"]))
    return [Client(url, key=key).predict(rows)["probability_yes"].tolist() for url in served.details["made"]["urls"]]


class Callers:
    """Somebody who asks each host without a pause, over new connections; what went wrong is kept."""

    def __init__(self, served: Deployment, rows: pd.DataFrame):
        key = own_key(Path(served.details["folder"]))
        self.clients = [Client(url, key=key) for url in served.details["made"]["urls"]]
        self.rows, self.ended, self.asked, self.failed = rows.head(1), threading.Event(), 0, []
        self.threads = [threading.Thread(target=self._ask, args=(client,)) for client in self.clients]

    def _ask(self, client: Client) -> None:
        while not self.ended.is_set():
            try:
                client.predict(self.rows)
            except Exception as error:  # whatever a caller would see
                self.failed.append(repr(error))
            self.asked += 1
            self.ended.wait(0.2)

    def __enter__(self) -> "Callers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(60)


@pytest.fixture(scope="module")
def served(hosts, bundles, rows) -> Deployment:
    """The first bundle on both hosts."""
    assert plan_deployment(bundles[0], name="life", target="ssh", environment="current").plan.action == "create"
    assert hosts.running("life") == [] and not hosts.root("one").exists()
    return up(bundles[0], "life")


def test_both_hosts_serve_what_was_proved_on_each(hosts, served, bundles, rows):
    here, there = answers(served, rows.head(5))
    assert here == there and len(set(served.details["made"]["urls"])) == 2
    status = served.status()
    assert status["state"] == "running" and set(status["hosts"]) == {"one", "two"}
    assert all(one["bundle"] == served.details["bundle"] and one["pid"] for one in status["hosts"].values())
    assert len(hosts.running("life")) == 4  # a supervisor and a door on each
    assert plan_deployment(bundles[0], name="life", target="ssh", environment="current").plan.action == "nothing"
    assert "== one" in served.logs(5) and "== two" in served.logs(5)


def test_no_secret_lies_where_another_could_read_it(hosts, served):
    for name in hosts.names:
        folder = hosts.root(name) / "life"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in [folder / "keys.json", folder / "revisions" / "0001" / "spec.json"]:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        key = own_key(Path(served.details["folder"]))
        assert not any(key.encode() in p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert not (Path(served.details["folder"]) / "ssh").exists()


def test_a_service_that_is_killed_is_started_again_and_one_that_was_switched_off_by_up(hosts, served, rows):
    os.kill(served.status()["hosts"]["one"]["pid"], signal.SIGKILL)
    end = time.monotonic() + 60
    while (known := served.status()["hosts"]["one"])["state"] != "running" or not known["restarts"]:
        assert time.monotonic() < end, known
        time.sleep(1)
    folder = hosts.root("two") / "life"
    pid = served.status()["hosts"]["two"]["pid"]
    for number in [int(line.split()[1]) for line in hosts.running("life")]:  # as after the power went: all of it is gone
        if str(folder) in Path(f"/proc/{number}/cmdline").read_text():
            os.kill(number, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    assert served.status()["hosts"]["two"]["state"] != "running"
    subprocess.run([folder / "run", "up"], check=True, timeout=90, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while served.status()["state"] != "running":
        assert time.monotonic() < end, served.status()
        time.sleep(1)
    here, there = answers(served, rows.head(3))
    assert here == there


def test_when_the_second_host_says_no_the_first_goes_back(hosts, served, bundles, rows):
    before, running = answers(served, rows.head(3)), len(hosts.running("life"))
    taken = hosts.root("two") / "life" / "revisions"
    kept = taken.with_name("kept")
    taken.rename(kept)
    taken.write_text("no folder")  # so that nothing can be begun there, whatever was looked at before
    try:
        with Callers(served, rows) as callers, pytest.raises(WorkbenchError) as refused:
            up(bundles[1], "life")
    finally:
        taken.unlink()
        kept.rename(taken)
    assert "(on two)" in str(refused.value)
    assert callers.failed == [] and callers.asked > 10
    assert answers(served, rows.head(3)) == before and len(hosts.running("life")) == running
    assert find_deployment("life").details == served.details
    assert len(list((hosts.root("one") / "life" / "revisions").iterdir())) == 1


def test_an_update_refuses_nobody_and_the_log_comes_home(hosts, served, bundles, rows):
    before = answers(served, rows.head(3))
    with Callers(served, rows) as callers:
        after = up(bundles[1], "life")
    assert callers.failed == [] and callers.asked > 10
    assert after.details["made"]["urls"] == served.details["made"]["urls"]
    assert answers(after, rows.head(3)) != before
    asked = after.predict(rows.head(4))
    assert fetch_log("life") and fetch_log("life") == []
    known = {record["prediction_id"] for record in read_records(after.log_folder, "predictions")}
    assert set(asked["prediction_id"]) <= known


def refused(bundle: str, name: str, kind: type[WorkbenchError], words: str) -> None:
    """Deploying there is refused in these words, within seconds and with nothing made."""
    began = time.monotonic()
    with pytest.raises(kind, match=words):
        up(bundle, name)
    assert time.monotonic() - began < 60 and workspace().ledger.get("deployment", name) is None


def test_what_is_wrong_with_the_way_to_a_host_is_told_before_anything_is_made(hosts, bundles, monkeypatch, tmp_path):
    def with_inventory(**changed: object) -> None:
        monkeypatch.setenv(SETTING, str(hosts.write(("one",), "other.json", **changed)))

    strict = "-F none -o IdentitiesOnly=yes -o UserKnownHostsFile="
    with_inventory(ansible_port=1)
    refused(bundles[0], "bad", MissingPart, "must be reached by ssh within 10 s, got .*refused")
    with_inventory(ansible_ssh_common_args=f"{strict}{tmp_path / 'nobody'}")
    refused(bundles[0], "bad", InputError, "known_hosts, got an unknown one.*connect once by hand")
    wrong = tmp_path / "known"
    public = " ".join((hosts.folder / "stranger.pub").read_text().split()[:2])
    wrong.write_text(f"[127.0.0.1]:{hosts.ports[0]} {public}\n")
    with_inventory(ansible_ssh_common_args=f"{strict}{wrong}")
    refused(bundles[0], "bad", InputError, "another than the known one")
    with_inventory(ansible_ssh_private_key_file=str(hosts.folder / "stranger"))
    refused(bundles[0], "bad", InputError, "let you in by a key.*Permission denied.*ssh-copy-id")
    with_inventory(ansible_password="hunter2")
    refused(bundles[0], "bad", InputError, "reached by a key, got ansible_password")
    with_inventory(mlw_python="/bin/false")
    refused(bundles[0], "bad", InputError, r"must have Python 3\.\d+, got none")
    with_inventory(mlw_root="/proc/nowhere")
    refused(bundles[0], "bad", InputError, "can be written|must be free")
    assert not (hosts.root("one") / "bad").exists()


def test_an_inventory_that_is_none_and_a_missing_ansible_are_told_with_what_to_do(hosts, bundles, monkeypatch, tmp_path):
    monkeypatch.setenv(SETTING, "")
    refused(bundles[0], "bad", InputError, "must name an inventory")
    broken = tmp_path / "hosts.yaml"
    broken.write_text("all: [")
    monkeypatch.setenv(SETTING, str(broken))
    refused(bundles[0], "bad", InputError, "must have hosts that match 'all'")
    monkeypatch.setenv(SETTING, str(hosts.inventory))
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_SSH_HOSTS", "nobody")
    refused(bundles[0], "bad", InputError, "must have hosts that match 'nobody'")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(bundles[0], "bad", MissingPart, r"pip install .mlworkbench\[ssh\]")


def test_an_environment_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    tiny, lock, place = tmp_path / "tiny-1-py3-none-any.whl", tmp_path / "requirements.lock", tmp_path / "made"
    with zipfile.ZipFile(tiny, "w") as wheel:
        wheel.writestr("tiny.py", "WORD = 'here'\n")
        wheel.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        wheel.writestr("tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.dist-info/RECORD", "")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # uv is there
    make = [sys.executable, resource("templates", "ansible", "files", "environment.py"), place, lock]
    lock.write_text(f"tiny @ file://{tiny}\nnowhere @ file://{tmp_path}/nowhere-1-py3-none-any.whl\n")
    told = subprocess.run(make, capture_output=True, text=True, timeout=120)
    assert told.returncode == 3 and "must be found" in told.stderr and not place.exists()
    place.mkdir()
    (place / "half").touch()  # the line broke while it was being made
    lock.write_text(f"tiny @ file://{tiny}\n")
    subprocess.run(make, check=True, timeout=120)
    said = subprocess.run([place / "bin" / "python", "-c", "import tiny; print(tiny.WORD)"], capture_output=True, text=True)
    assert said.stdout == "here\n" and not (place / "half").exists()
    (place / "kept").touch()
    subprocess.run(make, check=True, timeout=60)
    assert (place / "kept").exists()


def test_a_name_on_a_host_belongs_to_one_workspace(hosts, served, bundles, monkeypatch, tmp_path):
    running, mine = hosts.running("life"), served.details
    monkeypatch.setenv("MLWORKBENCH_WORKSPACE", str(tmp_path / "another"))
    refused(bundles[0], "life", InputError, "the name life must be free on this host, got one of another workspace")
    assert hosts.running("life") == running and find_target("ssh").status(mine["made"])["state"] == "running"
    find_target("ssh").destroy(mine["made"] | {"owner": "another"})  # as one who was refused might try
    assert hosts.running("life") == running
