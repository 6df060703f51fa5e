"""A stack's files: accepted by who reads them, right in what they alarm about, and closed to names that would break out."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mlworkbench.containers import compose
from mlworkbench.containers.compose import Slot, Stack, Watch, build_stack, part_images, project_name, render_stack, write_stack
from mlworkbench.core.errors import InputError

SERVICE = {"max_body_mb": 16, "timeout_s": 30, "queue": 64, "metrics_access": "key", "auth": "on"}
IMAGES = {"proxy": "haproxy:3.2-alpine", "prometheus": "prom/prometheus:v3.5.0", "alertmanager": "prom/alertmanager:v0.28.1",
          "grafana": "grafana/grafana:12.1.0"}


def stack(**changes) -> Stack:
    slots = Slot("blue", "churn:1", "churn:1", memory_mb=500, cpu=1.5), Slot("green", "churn:2", "churn:2", workers=4)
    made = Stack("churn", slots, "green", SERVICE, images=IMAGES, watch=Watch(quiet_minutes=30), tls="tls.pem")
    return replace(made, **changes)


def run(*command: object, **rest) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, **rest)


# --- read by those they are for ---------------------------------------------------------------------------------------


def test_compose_s_own_schema_and_program_accept_the_file(tmp_path, need):
    write_stack(tmp_path / "stack", render_stack(stack()))
    file = tmp_path / "stack/compose.yaml"
    told = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    assert told.returncode == 0, told.stdout
    program = need("docker-compose", "On Debian: apt-get install docker-compose")
    told = run(program, "config", cwd=tmp_path / "stack")
    assert told.returncode == 0, told.stderr
    read = yaml.safe_load(told.stdout)
    assert set(read["services"]) == {"service-blue", "service-green", "proxy", "prometheus", "alertmanager", "grafana"}


def test_every_container_is_locked_down_and_none_runs_as_root():
    services = yaml.safe_load(render_stack(stack())["compose.yaml"])["services"]
    for name, service in services.items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and service["pids_limit"] == 256, name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["tmpfs"] == ["/tmp"]
        assert service["user"].split(":")[0] not in ("0", "root", "") and "privileged" not in service
        for mount in service["volumes"]:
            writable = not mount.endswith(":ro")
            assert not writable or mount.split(":")[1] in ("/log", "/prometheus", "/alertmanager", "/var/lib/grafana"), mount
    assert services["service-blue"]["mem_limit"] == "500m" and services["service-blue"]["cpus"] == 1.5
    assert services["service-green"]["environment"]["MLW_WORKERS"] == "4" and "ports" not in services["service-green"]
    others = [port for name, service in services.items() if name != "proxy" for port in service.get("ports", [])]
    assert len(others) == 3 and all(port.startswith("127.0.0.1:") for port in others)


TYPES = """import type { Dashboard, Panel, DataQuery, DataSourceRef } from "@grafana/schema";
import type { Options as timeseries } from "./node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
import type { Options as stat } from "./node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
type Json<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
interface Query extends DataQuery { expr: string; legendFormat: string; datasource: DataSourceRef }
"""  # noqa: E501


@pytest.fixture(scope="module")
def grafana(need) -> Path:
    """Grafana's own types, and a compiler that reads them, in the tests' cache."""
    npm = need("npm", "On Debian: apt-get install npm")
    packages = ["@grafana/schema@12.1.0", "typescript@5.9.2"]
    cache = Path(os.environ.get("MLW_TEST_CACHE") or Path.home() / ".cache/mlworkbench-tests") / "grafana-12.1.0-typescript-5.9.2"
    if not (cache / "node_modules/.bin/tsc").exists():
        making = cache.with_name(f".{cache.name}.{os.getpid()}")
        making.mkdir(parents=True)
        (making / "package.json").write_text('{"private": true}')
        done = run(npm, "install", "--no-fund", "--no-audit", "--ignore-scripts", "--no-package-lock", *packages, cwd=making)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(cache, ignore_errors=True)
        making.rename(cache)
    return cache


def typed(board: dict) -> str:
    """The dashboard as constants of Grafana's types."""
    told = [TYPES, f"export const board: Json<Dashboard> = {json.dumps(board)};"]
    for panel in board["panels"]:
        told.append(f"export const p{panel['id']}: Json<Panel> = {json.dumps(panel)};")
        told.append(f"export const o{panel['id']}: Json<{panel['type']}> = {json.dumps(panel['options'])};")
        told.append(f"export const t{panel['id']}: Json<Query>[] = {json.dumps(panel['targets'])};")
    return "\n".join(told)


def test_the_dashboard_is_what_grafana_s_own_types_allow_and_a_wrong_one_is_not(grafana, tmp_path):
    (tmp_path / "node_modules").symlink_to(grafana / "node_modules")
    board = json.loads(render_stack(stack())["grafana/dashboards/service.json"])
    (tmp_path / "good.ts").write_text(typed(board))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext"]
    tsc = grafana / "node_modules/.bin/tsc"
    assert run(tsc, *options, tmp_path / "good.ts").stdout == ""
    board["panels"][-1]["options"]["tooltip"]["mode"] = "many"
    (tmp_path / "bad.ts").write_text(typed({**board, "timezne": "utc"}))
    told = run(tsc, *options, tmp_path / "bad.ts").stdout
    assert "timezne" in told and '"many"' in told


def test_the_panels_lie_beside_each_other_on_the_grid():
    board = json.loads(render_stack(stack())["grafana/dashboards/service.json"])
    cells = [(x, y) for panel in board["panels"] for at in [panel["gridPos"]]
             for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


# --- when they alarm --------------------------------------------------------------------------------------------------

GOOD = {
    'up{job="service",deployment="churn"}': "1x20", 'up{job="proxy",deployment="churn"}': "1x20",
    'haproxy_server_check_status{proxy="service",state="L7STS",deployment="churn"}': "0x20",
    'mlw_requests_total{route="/predict",status="200",deployment="churn"}': "0+600x20",
    'mlw_requests_total{route="/readyz",status="503",deployment="churn"}': "0+600x20",  # a probe is no caller
    'mlw_request_seconds_bucket{route="/predict",le="0.1",deployment="churn"}': "0+600x20",
    'mlw_request_seconds_bucket{route="/predict",le="+Inf",deployment="churn"}': "0+600x20",
    'mlw_rows_total{deployment="churn"}': "0+6000x20", 'mlw_rejected_total{reason="missing",deployment="churn"}': "0+60x20",
    'mlw_queue_length{deployment="churn"}': "3x20", 'mlw_log_failures_total{deployment="churn"}': "0x20",
    'mlw_denied_total{reason="unknown",deployment="churn"}': "0+10x20",
    'mlw_process_memory_bytes{worker="1",deployment="churn"}': "400000000x20",
    'haproxy_frontend_requests_denied_total{proxy="front",deployment="churn"}': "0x20",
}
P, B = "mlw_requests_total", "mlw_request_seconds_bucket"
BAD = {
    "ServiceDown": {'up{job="service",deployment="churn"}': "1x5 0x15"},
    "ServiceNotReady": {'haproxy_server_check_status{proxy="service",state="L7STS",deployment="churn"}': "1x20"},
    "ProxyDown": {'up{job="proxy",deployment="churn"}': "0x20"},
    "Errors": {f'{P}{{route="/predict",status="500",deployment="churn"}}': "0+60x20"},
    "Slow": {f'{B}{{route="/predict",le="5.0",deployment="churn"}}': "0+660x20",
             f'{B}{{route="/predict",le="+Inf",deployment="churn"}}': "0+660x20"},
    "BadInput": {'mlw_rejected_total{reason="missing",deployment="churn"}': "0+600x20"},
    "TurnedAway": {f'{P}{{route="/predict",status="503",deployment="churn"}}': "0+6x20"},
    "QueueLong": {'mlw_queue_length{deployment="churn"}': "230x20"},  # of four workers with 64 places each
    "PredictionLogFails": {'mlw_log_failures_total{deployment="churn"}': "0x10 1x10"},
    "KeysDenied": {'mlw_denied_total{reason="unknown",deployment="churn"}': "0+90x20"},
    "NoTraffic": {f'{P}{{route="/predict",status="200",deployment="churn"}}': "5x40"},
    "MemoryShort": {'mlw_process_memory_bytes{worker="2",deployment="churn"}': "480000000x20"},
    "ClientsLimited": {'haproxy_frontend_requests_denied_total{proxy="front",deployment="churn"}': "0+5x20"},
}


def test_each_rule_alarms_about_its_own_trouble_and_none_where_all_is_well(tmp_path, need):
    promtool = need("promtool", "On Debian: apt-get install prometheus")
    watched = stack(slots=(Slot("blue", "churn:1", "churn:1", workers=4, memory_mb=500),), live="blue", rate_limit=1000)
    rules = render_stack(watched)["prometheus/rules.yml"]
    (tmp_path / "rules.yml").write_text(rules)
    names = [rule["alert"] for rule in yaml.safe_load(rules)["groups"][0]["rules"]]
    assert set(names) == set(BAD)
    tests = []
    for name, changes in [("", {}), *BAD.items()]:
        checks = [{"expr": f'ALERTS{{alertname="{n}",alertstate="firing"}}', "eval_time": "35m" if name == "NoTraffic" else "14m",
                   "exp_samples": [{"labels": _labels(n, rules), "value": 1}] if n == name else []} for n in names
                  if n == name or name in ("", "Slow", "QueueLong")]
        series = [{"series": k, "values": v} for k, v in {**GOOD, **changes}.items()]
        tests.append({"interval": "1m", "input_series": series, "promql_expr_test": checks})
    quiet = {k: "1x40" if k.startswith("up{") else v for k, v in {**GOOD, **BAD["NoTraffic"]}.items()}
    tests[list(BAD).index("NoTraffic") + 1]["input_series"] = [{"series": k, "values": v} for k, v in quiet.items()]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}))
    told = run(promtool, "test", "rules", tmp_path / "test.yml")
    assert told.returncode == 0, told.stdout + told.stderr


def _labels(name: str, rules: str) -> str:
    rule = next(rule for rule in yaml.safe_load(rules)["groups"][0]["rules"] if rule["alert"] == name)
    more = {"ServiceDown": 'job="service",', "ProxyDown": 'job="proxy",', "ServiceNotReady": 'proxy="service",state="L7STS",'}
    more = more.get(name, "")
    return f'ALERTS{{alertname="{name}",alertstate="firing",deployment="churn",{more}severity="{rule["labels"]["severity"]}"}}'


def test_every_rule_tells_how_bad_what_and_what_to_do():
    rules = yaml.safe_load(render_stack(stack(rate_limit=5))["prometheus/rules.yml"])["groups"][0]["rules"]
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert all(len(text) > 15 for text in rule["annotations"].values())


def test_what_is_asked_for_by_a_setting_alone_is_left_out_without_it():
    names = {rule["alert"] for rule in yaml.safe_load(render_stack(
        stack(watch=Watch(), slots=(Slot("green", "churn:2"),)))["prometheus/rules.yml"])["groups"][0]["rules"]}
    assert not names & {"NoTraffic", "MemoryShort", "ClientsLimited"} and "ServiceDown" in names


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["", "a b", "x;y", "$(x)", 'x"', "Upper/Case", "x:1\n  privileged: true", "-x", "http://x/y"])
def test_an_image_s_name_that_is_none_is_refused(image):
    with pytest.raises(InputError, match="must be the name of an image"):
        stack(slots=(Slot("green", image),))


@pytest.mark.parametrize("image", ["x", "x:1", "prom/prometheus:v3.5.0", "127.0.0.1:5000/a/b_c:1.2-x", "x@sha256:" + "0" * 64])
def test_an_image_s_name_is_taken_as_it_is(image):
    made = render_stack(stack(slots=(Slot("green", image),)))
    assert yaml.safe_load(made["compose.yaml"])["services"]["service-green"]["image"] == image


@pytest.mark.parametrize("name", ["", "a b", "Übung", "x\ny: z", "$HOME", "x'y", "../x"])
def test_a_deployment_s_name_that_could_break_out_is_refused(name):
    with pytest.raises(InputError):
        stack(name=name)


@pytest.mark.parametrize("host", ["", "localhost", "::1", "127.0.0.1:80", "0.0.0.0/0", "a b"])
def test_a_host_that_is_no_address_is_refused(host):
    with pytest.raises(InputError, match="IPv4"):
        stack(host=host)


def test_settings_that_are_wrong_are_refused_with_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_CONTAINERS_PROXY_IMAGE", "")
    with pytest.raises(InputError, match=r"containers\.proxy_image"):
        part_images()
    monkeypatch.setenv("MLWORKBENCH_MONITORING_WEBHOOK_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="must name a file"):
        Watch.from_settings()
    secret = tmp_path / "hook"
    monkeypatch.setenv("MLWORKBENCH_MONITORING_WEBHOOK_FILE", str(secret))
    secret.write_text("hooks.example/s3cret-t0ken")
    with pytest.raises(InputError) as told:
        Watch.from_settings()
    assert "s3cret" not in str(told.value)
    secret.write_text("https://hooks.example/s3cret?a=$x&b='{{c}}'\n")
    files = render_stack(stack(watch=Watch.from_settings()))
    read = yaml.safe_load(files["alertmanager/alertmanager.yml"])["receivers"][0]["webhook_configs"][0]["url"]
    assert read == secret.read_text().strip()
    assert [path for path, text in files.items() if "s3cret" in text] == ["alertmanager/alertmanager.yml"]


def test_dollars_reach_a_container_as_they_are(tmp_path, need):
    program = need("docker-compose", "On Debian: apt-get install docker-compose")
    write_stack(tmp_path, render_stack(stack(slots=(Slot("green", "churn:2", "a $HOME: ${X} 'b' \"c\""),))))
    told = run(program, "config", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    label = yaml.safe_load(told.stdout)["services"]["service-green"]["labels"]["org.mlworkbench.bundle"]
    assert label in ("a $$HOME: $${X} 'b' \"c\"", "a $HOME: ${X} 'b' \"c\"")  # some versions print it as it must be written


def test_a_template_that_names_a_value_that_is_not_there_is_a_fault(monkeypatch):
    from jinja2 import UndefinedError

    values = compose._values
    monkeypatch.setattr(compose, "_values", lambda given: {k: v for k, v in values(given).items() if k != "port"})
    with pytest.raises(UndefinedError, match="port"):
        render_stack(stack())


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_ready_folder_is_made_of_a_bundle_keeps_its_keys_and_holds_none_where_all_can_read(tmp_path, monkeypatch):
    from mlworkbench.serving.keys import read_keys

    monkeypatch.setattr(compose, "load_bundle", lambda bundle: bundle)
    source = tmp_path / "bundle/src"
    source.mkdir(parents=True)
    (source / "service.json").write_text(json.dumps({"schema": 1, **SERVICE}))

    class Bundle:
        name, tag, path = "churn", "churn:1f2e", str(tmp_path / "bundle")

    monkeypatch.setattr(compose, "image_tag", lambda bundle: bundle.tag)
    folder = build_stack(Bundle(), tmp_path / "stack", memory_mb=700)
    key = (folder / "secrets/key").read_text().strip()
    assert build_stack(Bundle(), folder) == folder and (folder / "secrets/key").read_text().strip() == key
    assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "secrets/key").stat().st_mode & 0o777 == 0o600
    assert len(read_keys((folder / "keys/keys.json").read_text())) == 2
    parts = [(folder / "secrets" / name).read_text() for name in ("prometheus/metrics_key", "grafana/admin_password")]
    secret = {key, *parts}
    for path in folder.rglob("*"):
        if path.is_file() and "secrets" not in path.parts:
            assert not any(word in path.read_text() for word in secret), path
    assert "127.0.0.1:8443" in (folder / "README.md").read_text()


def test_a_part_that_is_left_out_by_a_setting_goes_with_its_files(tmp_path):
    write_stack(tmp_path, render_stack(stack()))
    assert (tmp_path / "grafana/dashboards/service.json").exists()
    changed = write_stack(tmp_path, render_stack(stack(images={**IMAGES, "grafana": ""})))
    assert changed == ["README.md", "compose.yaml", "grafana/"] and not (tmp_path / "grafana").exists()


def test_two_stacks_of_one_name_in_two_folders_are_two_projects(tmp_path):
    assert project_name("a.b", tmp_path / "x") != project_name("a.b", tmp_path / "y")
    assert project_name("a.b") == "mlw-a-b"
