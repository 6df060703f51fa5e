"""Deployments of real bundles: they outlive who made them, are replaced only by what is proved, and leave nothing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pandas as pd
import pytest
from handmade_bundle import census, changed_copy, fitted_pipeline

from mlworkbench import stages
from mlworkbench.app.running import panel_of, replaces
from mlworkbench.bundling.build import build_bundle
from mlworkbench.bundling.verify import SOURCE, bundle_sha256
from mlworkbench.core.errors import GateFailed, InputError, MissingPart, NotFound
from mlworkbench.core.jobs import Job
from mlworkbench.core.workspace import workspace
from mlworkbench.deployment import supervisor
from mlworkbench.deployment.client import Client
from mlworkbench.deployment.deploy import curl_options, deploy, deployments, find_deployment, stop_deployment
from mlworkbench.deployment.keys import add_key, own_key, revoke_key
from mlworkbench.deployment.local import LocalTarget, revisions
from mlworkbench.deployment.targets import check_port
from mlworkbench.monitoring.monitor import monitor

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["age", "education", "sex"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return census(600)[0][COLUMNS]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """A workspace and a store for this module; whatever still runs at its end is a fault."""
    folder = tmp_path_factory.mktemp("deployments").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        patch.delenv("MLWORKBENCH_SETTINGS", raising=False)
        yield folder
        everything = [r for d in (folder / "workspace" / "deployments").glob("*") for r in revisions(d)]
        left = [(r, supervisor.stop(r)) for r in everything]
        assert not any(count for _, count in left), left


@pytest.fixture(scope="module")
def bundles(home, rows) -> list[str]:
    """Two good bundles of one name: of a linear model and of a small forest."""
    y = census(600)[1]
    models = [fitted_pipeline(rows, y), fitted_pipeline(rows, y, trees=3)]
    return [build_bundle(m, name="people", examples=rows, environment="current", golden_rows=16).path for m in models]


@pytest.fixture
def up(home, bundles) -> Iterator[Callable]:
    """Deploy in this environment; every name that was deployed is stopped at the end."""
    names = []

    def start(bundle: str, name: str, **options):
        names.append(name)
        return deploy(bundle, name=name, environment="current", **options)

    yield start
    for name in {n for n in names if workspace().ledger.get("deployment", n)}:
        stop_deployment(name)


def spoilt(bundle: str, folder: Path, name: str, text: str) -> str:
    return str(changed_copy(bundle, folder / Path(bundle).name, name, lambda _: text))


def until(condition: Callable[[], object], seconds: float = 60.0) -> object:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def alive(name: str) -> list[Path]:
    folder = workspace().deployments / name
    return [r for r in revisions(folder) if supervisor.supervisor_process(r) or supervisor.service_processes(r)]


def made(deployment) -> Path:
    return Path(deployment.details["made"]["path"])


def test_the_whole_life_of_a_deployment(up, bundles, rows):
    served = up(bundles[0], "life")
    assert served.status == "passed" and served.status()["state"] == "running"
    answers = served.predict(rows.head(300))
    assert list(answers.columns) == ["prediction", "prediction_id", "probability_no", "probability_yes"]
    assert answers.index.equals(rows.head(300).index) and answers["prediction_id"].is_unique
    labels = dict.fromkeys(answers["prediction_id"], "yes")
    assert served.feedback({**labels, "20260131T080000-1a2b3c4d-0": "no"}) == {
        "accepted": 300, "unknown": ["20260131T080000-1a2b3c4d-0"]}  # fmt: skip
    assert "initialized" in served.logs(50)
    found = monitor(served)
    assert found.volume.rows == 300 and found.performance.labelled == 300 and found.rejected == 0
    assert found.status == "passed" and any("no evaluation" in r for r in found.reasons)
    served.stop()
    assert served.status()["state"] == "stopped" and not alive("life")
    with pytest.raises(NotFound, match="a service must answer at"):
        served.predict(rows.head(1))
    assert monitor("life").volume.rows == 300


def test_it_survives_who_deployed_it_and_another_process_finds_it(up, bundles, rows):
    code = (
        "import sys, time; from mlworkbench.deployment.deploy import deploy\n"
        "deploy(sys.argv[1], name='orphan', environment='current'); print('up', flush=True); time.sleep(300)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, bundles[0]], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               start_new_session=True)
    try:
        assert starter.stdout.readline() == "up\n"
    finally:
        os.killpg(starter.pid, signal.SIGKILL)
        starter.wait(10)
    ask = "from mlworkbench.deployment.deploy import find_deployment as f; print(f('orphan').status()['state'])"
    told = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert told.stdout == "running\n", told.stderr
    served = find_deployment("orphan")
    assert served.name in [d.name for d in deployments()]
    before = served.predict(rows.head(20))["prediction"].tolist()
    for process in supervisor.service_processes(made(served)):
        process.kill()
    assert until(lambda: served.status()["restarts"] == 1 and served.status()["state"] == "running")
    assert served.predict(rows.head(20))["prediction"].tolist() == before
    served.stop()
    assert not alive("orphan")


def test_an_update_takes_over_the_port_and_a_roll_back_returns(up, bundles, rows):
    first = up(bundles[0], "update")
    port, old = first.details["made"]["port"], first.predict(rows.head(50))
    second = up(bundles[1], "update", workers=2)
    assert second.details["made"]["port"] == port and second.details["bundle"] != first.details["bundle"]
    assert first.url == second.url and len(alive("update")) == 1
    assert second.details["back"][-1]["sha256"] == bundle_sha256(Path(bundles[0]))
    new = first.predict(rows.head(50))  # a handle from before the update asks what runs now
    assert new["probability_yes"].tolist() != old["probability_yes"].tolist()
    assert monitor(second).volume.rows == 50  # of the shared log, only the current bundle's
    back = second.rollback()
    assert back.details["bundle"] == first.details["bundle"] and back.url == first.url
    assert back.predict(rows.head(50))["probability_yes"].tolist() == old["probability_yes"].tolist()
    assert monitor(back).volume.rows == 100
    with pytest.raises(InputError, match="another bundle must have run"):
        back.rollback()
    assert back.status()["state"] == "running" and len(alive("update")) == 1


BROKEN = {  # text, what is told, seconds: one that ends is not waited for, however slow the machine that starts it
    "ends": ("raise SystemExit('no model here')", "no model here", 60.0),
    "hangs": ("import time\nprint('loading', flush=True)\ntime.sleep(300)", "must be ready within 6 s", 6.0),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_service_that_never_becomes_healthy_goes_and_the_former_one_stays(kind, up, bundles, rows, tmp_path):
    text, told, timeout_s = BROKEN[kind]
    served = up(bundles[0], f"keeps-{kind}")
    before = made(served)
    with pytest.raises(GateFailed, match=told) as failure:
        up(spoilt(bundles[0], tmp_path, "service.py", text), f"keeps-{kind}", timeout_s=timeout_s)
    assert "service:" in str(failure.value)
    assert alive(f"keeps-{kind}") == [before] == revisions(before.parent.parent)
    assert find_deployment(f"keeps-{kind}").details == served.details
    assert len(served.predict(rows.head(3))) == 3


def test_a_service_that_takes_fewer_rows_than_there_are_golden_ones_is_proved_and_asked_in_parts(up, bundles, rows, tmp_path):
    settings = json.loads((Path(bundles[0]) / SOURCE / "service.json").read_text())
    small = spoilt(bundles[0], tmp_path, "service.json", json.dumps(settings | {"max_rows": 5}))
    served = up(small, "small")
    golden = len(json.loads((Path(bundles[0]) / SOURCE / "golden.json").read_text())["rows"])
    assert served.details["made"]["check"]["rows"] == golden > 5 and len(served.predict(rows.head(12))) == 12
    url, row = served.url, json.loads(rows.head(1).to_json(orient="records"))
    headers = {"X-Request-Id": "golden-0", "X-Api-Key": own_key(Path(served.details["folder"]))}
    sent = httpx.post(f"{url}/predict", json={"rows": row}, headers=headers, trust_env=False)
    assert sent.status_code == 200 and monitor(served).volume.rows == 13  # the golden rows are none, the caller's is one
    served.stop()


def test_a_bundle_that_was_changed_is_not_started(home, bundles, tmp_path):
    copy = tmp_path / Path(bundles[0]).name
    shutil.copytree(bundles[0], copy)
    (copy / SOURCE / "signature.json").write_text("{}")
    with pytest.raises(GateFailed, match="signature.json was changed"):
        deploy(copy, name="changed", environment="current")
    assert not alive("changed")


def test_a_port_in_use_is_refused_before_anything_starts(up, bundles):
    served = up(bundles[0], "port")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {number} on 127.0.0.1 must be free"):
            up(bundles[1], "port", port=number)
        with pytest.raises(InputError, match="must be free"):
            up(bundles[1], "another", port=served.details["made"]["port"])
    assert alive("port") == [made(served)] and served.status()["state"] == "running"
    assert check_port("127.0.0.1", number) == number


def test_a_cancel_while_the_former_lets_its_connections_go_hands_it_the_port_back(up, bundles, rows):
    served = up(bundles[0], "back")
    headers = {"X-Api-Key": key_of(served)}
    with httpx.Client(base_url=served.url, headers=headers, trust_env=False, timeout=30) as idle:
        assert idle.get("/model").status_code == 200  # kept alive, so the former does not come to its end
        job = Job(deploy, bundle=bundles[1], name="back", environment="current").start()
        assert until(lambda: LocalTarget.steps[6] in job.text)
        job.cancel()
        assert job.wait(60) and job.state == "cancelled"
        told = httpx.get(f"{served.url}/model", headers=headers, trust_env=False, timeout=30).json()
    assert told["tag"] == served.details["bundle"] and alive("back") == [made(served)]


def test_a_service_that_waits_for_its_restart_is_not_let_go_for_one_that_fails(up, bundles, tmp_path):
    served = up(bundles[0], "waits")
    revision = made(served)
    spec = supervisor.read_spec(revision)
    for _ in range(3):  # the wait before a restart doubles each time
        assert until(lambda: supervisor.read_state(revision).phase == "running")
        supervisor.end_service(revision)
    assert until(lambda: supervisor.read_state(revision).phase == "waiting") and spec.door
    with pytest.raises(GateFailed):
        up(spoilt(bundles[0], tmp_path, "service.py", "raise SystemExit('no model here')"), "waits")
    assert until(lambda: served.status()["state"] == "running") and alive("waits") == [revision]


def test_two_deploys_of_one_name_at_once_are_refused_and_the_first_one_stands(up, bundles):
    outcomes: list[object] = []
    name = "twice-of-as-many-letters-as-a-name-may-have".ljust(63, "e")

    def attempt() -> None:
        try:
            outcomes.append(up(bundles[0], name))
        except InputError as error:
            outcomes.append(error)

    both = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(120)
    refused = [o for o in outcomes if isinstance(o, InputError)]
    assert len(outcomes) == 2 and len(refused) == 1 and "one run at a time" in str(refused[0])
    assert len(alive(name)) == 1 and find_deployment(name).status()["state"] == "running"


@pytest.mark.parametrize(("options", "told"), [
    ({"bundle": "no-such:1"}, "tag or the folder of a bundle"), ({"target": "moon"}, "Known: local"),
    ({"name": "My Name; rm"}, "Try 'my-name-rm'"), ({"port": 70000}, "1 to 65535"), ({"workers": 0}, "1 to 64"),
    ({"environment": "mine"}, "isolated, current"), ({"bundle": "latest:nobody"}, "no bundle|must be one that is there"),
    ({"replicas": 3, "max_replicas": 2}, "3 .the replicas. to 1000, got 2"), ({"cpu_percent": 0}, "1 to 100"),
])  # fmt: skip
def test_wrong_options_are_refused_with_what_to_do(options, told, home, bundles):
    with pytest.raises(InputError, match=told):
        deploy(**({"bundle": bundles[0], "name": "wrong"} | options))
    assert not alive("wrong")


def test_an_address_of_ipv6_is_refused_by_the_setting_s_name(home, bundles, monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_HOST", "::1")
    with pytest.raises(InputError, match="deployment.host: it must be an IPv4 address"):
        deploy(bundles[0], name="wrong")


def test_names_that_are_not_there_are_told_with_the_closest(up, bundles):
    up(bundles[0], "closest")
    with pytest.raises(NotFound, match="Did you mean 'closest'"):
        find_deployment("closset")
    with pytest.raises(NotFound):
        stop_deployment("nobody")


# --- keys and TLS -------------------------------------------------------------------------------------------------------


def key_of(deployment) -> str:
    return own_key(Path(deployment.details["folder"]))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`mlworkbench` in a process of its own, in this test's workspace."""
    program = str(Path(sys.executable).with_name("mlworkbench"))
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)


def test_keys_are_made_used_and_revoked_from_the_command_line_while_the_service_runs(up, bundles, rows):
    served = up(bundles[0], "keys")
    folder, url = Path(served.details["folder"]), served.url
    body = {"rows": json.loads(rows.head(1).to_json(orient="records"))}

    def ask(key: str, route: str = "/predict", sent: dict = body) -> int:
        return httpx.post(url + route, json=sent, headers={"X-Api-Key": key}, trust_env=False).status_code

    assert ask("mlw_abcd_wrong") == 401 and httpx.get(f"{url}/model", trust_env=False).status_code == 401
    made = command("keys", "keys", "add", "--label", "the web shop", "--expires", "90d")
    shop = made.stdout.strip()
    assert made.returncode == 0 and shop.count("\n") == 0 and "shown once" in made.stderr
    assert until(lambda: ask(shop) == 200, 5) and ask(shop, "/feedback", {"labels": []}) == 403
    listed = command("keys", "keys").stdout
    assert "the web shop" in listed and "mlworkbench" in listed and shop.split("_", 2)[2] not in listed
    assert command("keys", "keys", "revoke", shop.split("_")[1]).returncode == 0
    assert until(lambda: ask(shop) == 401, 5) and ask(key_of(served)) == 200
    for wrong in (("revoke", "nobody"), ("revoke",), ("add", "--scopes", "predct"), ("add", "--expires", "yesterday")):
        assert command("keys", "keys", *wrong).returncode == 2
    assert {p.stat().st_mode & 0o777 for p in (folder / "keys.json", folder / "key", made_spec(served))} == {0o600}
    predicted = command("predict", "keys", str(write_csv(rows.head(3), folder.parent / "rows.csv")))
    assert predicted.returncode == 0 and predicted.stdout.count("\n") == 4  # another process, without typing a key
    one = predicted.stdout.splitlines()[1].split(",")[1]
    assert command("forget", "keys", one).stdout.startswith("keys: 1 predictions forgotten")
    again = command("forget", "keys", one)
    assert again.returncode == 2 and one in again.stderr and served.feedback({one: "yes"})["unknown"] == [one]


def made_spec(deployment) -> Path:
    return made(deployment) / "spec.json"


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def test_keys_outlive_a_new_version_and_a_lost_one_of_the_workbench_is_made_anew(up, bundles, rows):
    first = up(bundles[0], "lasting")
    given, own = add_key(Path(first.details["folder"]), ["predict"]), key_of(first)
    revoke_key(Path(first.details["folder"]), own.split("_")[1])
    assert until(lambda: refused(first, rows), 5)
    second = up(bundles[1], "lasting")
    assert key_of(second) != own and len(second.predict(rows.head(2))) == 2
    body = {"rows": json.loads(rows.head(1).to_json(orient="records"))}
    sent = httpx.post(f"{second.url}/predict", json=body, headers={"X-Api-Key": given}, trust_env=False)
    assert sent.status_code == 200


def refused(deployment, rows) -> bool:
    try:
        deployment.predict(rows.head(1))
    except InputError as error:
        return "API key" in str(error)
    return False


def certificate(folder: Path, openssl: str, name: str) -> tuple[Path, Path]:
    """A self-made certificate for this machine's own address, and its key."""
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run([openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2",
                    "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-out", str(paths[0]),
                    "-keyout", str(paths[1])], check=True, capture_output=True)
    return paths


def test_a_service_with_a_certificate_speaks_tls_alone_and_its_client_trusts_that_one(up, bundles, rows, tmp_path, monkeypatch,
                                                                                      need):
    openssl = need("openssl", "Install openssl.")
    crt, key = certificate(tmp_path, openssl, "own")
    other, _ = certificate(tmp_path, openssl, "other")
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_TLS_CERTIFICATE", str(crt))
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_TLS_KEY", str(key))
    served = up(bundles[0], "tls")
    monkeypatch.delenv("MLWORKBENCH_DEPLOYMENT_TLS_CERTIFICATE")  # a handle needs no settings to find its way
    monkeypatch.delenv("MLWORKBENCH_DEPLOYMENT_TLS_KEY")
    assert served.url.startswith("https://") and served.status()["state"] == "running"
    assert len(find_deployment("tls").predict(rows.head(3))) == 3
    with pytest.raises(NotFound):
        Client(served.url, key=key_of(served), certificate=other).predict(rows.head(1))
    with pytest.raises(NotFound):
        Client(served.url, key=key_of(served)).predict(rows.head(1))
    with pytest.raises(httpx.TransportError):
        httpx.get(served.url.replace("https", "http") + "/readyz", trust_env=False)
    line = f"{need('curl', 'Install curl.')} -sS {curl_options(served.details)} {served.url}/signature"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30)
    assert [c["name"] for c in json.loads(done.stdout)["columns"]] == COLUMNS, done.stderr
    served.stop()


def test_certificates_that_cannot_work_are_refused_before_anything_starts(up, bundles, tmp_path, monkeypatch, need):
    openssl = need("openssl", "Install openssl.")
    (crt, key), (_, strange) = certificate(tmp_path, openssl, "one"), certificate(tmp_path, openssl, "two")
    ended = tmp_path / "ended.crt"
    subprocess.run([openssl, "x509", "-in", str(crt), "-signkey", str(key), "-days", "-1", "-out", str(ended)], check=True,
                   capture_output=True)
    locked, text = tmp_path / "locked.key", tmp_path / "text.crt"
    subprocess.run([openssl, "ec", "-in", str(key), "-aes256", "-passout", "pass:secret", "-out", str(locked)], check=True,
                   capture_output=True)
    text.write_text("no certificate")
    cases = {(crt, strange): "belong together", (crt, ""): "tls_key", ("", key): "tls_certificate", (text, key): "PEM",
             (crt, tmp_path / "none"): "tls_key", (crt, locked): "passphrase", (ended, key): "expired"}
    for (one, two), word in cases.items():
        monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_TLS_CERTIFICATE", str(one))
        monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_TLS_KEY", str(two))
        with pytest.raises(InputError, match=word):
            deploy(bundles[0], name="no-tls", environment="current")
    assert not alive("no-tls") and workspace().ledger.get("deployment", "no-tls") is None


@pytest.fixture
def panel(up, bundles):
    """The deploy panel, before which a bundle was deployed as `shown`."""
    up(bundles[0], "shown")
    made = panel_of(stages.deploy, values={"bundle": bundles[1], "name": "shown", "environment": "current"})
    assert made.below.view and made.below.refresh().wait(20) and made.below.wait(20)
    yield made
    made.cancel()
    assert made.wait(60)
    made.below.close()


def answered(row, word, yes=True):
    """Press a verb of a row, answer its question, and wait for what it says; returns the question."""
    row.buttons[word].click()
    asked = row.question.text
    if asked and yes:
        row.question.yes.click()
    assert row.wait(90)
    return asked


def test_the_panel_asks_before_it_replaces_and_its_board_goes_back_and_stops(panel):
    first = find_deployment("shown").details["bundle"]
    panel.view.run.click()
    assert panel.wait(30) and f"Replace {first} by" in panel.question and panel.result is None
    assert find_deployment("shown").details["bundle"] == first and panel.planned.plan.action == "update"
    panel.view.asked.yes.click()
    assert panel.wait(90) and panel.message == "" and panel.result.status == "passed"
    second = find_deployment("shown").details["bundle"]
    assert second != first and panel.below.refresh().wait(20) and panel.below.wait(20)
    row = panel.below["shown"]
    assert row.row.state == "running" and row.row.facts["bundle"] == second
    assert answered(row, "Try it") == "" and row.message == ""
    answer, curl, golden = row.result
    assert "prediction" in set(answer.table["answer"]) and curl.text.startswith("curl ")
    assert list(golden.table["column"]) == COLUMNS
    assert answered(row, "Logs") == "" and row.result[0].text
    assert f"from {second} to {first}?" in answered(row, "Roll back")
    assert row.message == "" and find_deployment("shown").details["bundle"] == first
    assert "Stop shown?" in answered(row, "Stop", yes=False) and find_deployment("shown").status()["state"] == "running"
    row.question.yes.click()
    assert row.wait(60) and row.result.startswith("shown was stopped") and panel.below.refresh().wait(20) and panel.below.wait(20)
    assert row.row.state == "stopped" and row.buttons["Try it"].disabled and not row.buttons["Logs"].disabled
    assert replaces(panel.stage.plan(**panel.form.values())) == ""  # of what does not run, nothing is lost


def test_a_target_that_cannot_be_asked_is_unknown_with_its_reason(panel, monkeypatch):
    def gone(self, made):
        raise MissingPart("docker: the engine must answer, got none.")

    monkeypatch.setattr(LocalTarget, "status", gone)
    assert panel.below.refresh().wait(20) and panel.below.wait(20)
    row = panel.below["shown"].row
    assert (row.state, row.tone, row.note) == ("unknown", "bad", "docker: the engine must answer, got none.")
