"""A test double of a Kubernetes API server: no cluster, but the part of one that the target `kubernetes` speaks to.

What is real: HTTP and its credentials; the published OpenAPI schema of one Kubernetes version, enforced strictly on every
object; server-side apply, its dry run, label selectors and the errors' form; rolling updates pod by pod (`maxSurge: 1,
maxUnavailable: 0`), readiness and the proxy through which pods and services are reached. A pod's container is the real
service of the bundle that its annotation names: `bentoml serve`, with the container's variables and Secrets.

What is not: there are no nodes, no images are pulled (`images` says which bundle one holds), fields of other managers and
defaulting are not kept, nothing is watched. Pods of one bundle with the same variables share one process, to save time.
"""

import base64
import copy
import functools
import hashlib
import http.client
import json
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import kubernetes_validate.utils as published
import yaml
from referencing import Registry, Resource

from mlworkbench.bundling.parity import free_port, service_command, service_environment
from mlworkbench.core.jobs import end_group
from mlworkbench.deployment.cluster import CUSTOM, KINDS

VERSION = "1.36"
BUNDLE = "org.mlworkbench.bundle.sha256"
PLURALS = {(prefix, plural): kind for kind, (prefix, plural) in KINDS.items()}
READ_ONLY = {("api/v1", "pods"): "Pod", ("api/v1", "events"): "Event", ("apis/apps/v1", "replicasets"): "ReplicaSet"}
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


class Refused(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, reason: str, message: str, **details: str):
        super().__init__(message)
        self.status, self.body = status, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
                                          "message": message, "code": status, "details": details}


@functools.cache
def schema_of(kind: str, api_version: str, version: str = VERSION) -> jsonschema.Validator:
    """The published schema of a kind, strict: unknown fields are refused."""
    full = next(v for v in published.all_versions() if published.major_minor(v) == version)
    folder = f"kubernetes-json-schema/v{full}-local-strict"
    short = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = published.schema_contents(f"{folder}/{kind.lower()}-{short}.json", full)
    definitions = Resource.from_contents(published.schema_contents(f"{folder}/_definitions.json", full))
    return jsonschema.Draft202012Validator(schema, registry=definitions @ (Resource.from_contents(schema) @ Registry()))


def check_object(one: dict[str, Any]) -> None:
    """The schema, and the rules of names and labels that no schema tells."""
    name = one["metadata"]["name"]
    if one["kind"] not in CUSTOM:
        faults = sorted(schema_of(one["kind"], one["apiVersion"]).iter_errors(one), key=lambda e: list(map(str, e.path)))
        if faults:
            where = ".".join(map(str, faults[0].path))
            raise Refused(422, "Invalid", f'{one["kind"]} "{name}" is invalid: {where}: {faults[0].message}')
    labels = [one["metadata"].get("labels", {}), one.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})]
    if not NAME.fullmatch(name) or not all(LABEL.fullmatch(v) for found in labels for v in found.values()):
        raise Refused(422, "Invalid", f'{one["kind"]} "{name}" is invalid: a name or label that is none')
    if one["kind"] == "Secret":
        for text in one.get("data", {}).values():
            base64.b64decode(text, validate=True)


class Service:
    """The process behind pods: a bundle's real service."""

    def __init__(self, folder: Path, home: Path, environ: dict[str, str]):
        home.mkdir(parents=True)
        self.port, self.home, self.output = free_port(), home, home / "output.log"
        python = Path(sys.executable)
        with open(self.output, "wb") as handle:
            self.process = subprocess.Popen(
                service_command(folder, python, self.port), cwd=folder / "src", stdin=subprocess.DEVNULL, stdout=handle,
                stderr=subprocess.STDOUT, start_new_session=True,
                env=service_environment(python, home=home / "bentoml") | environ,
            )

    def ready(self) -> bool:
        there = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            there.request("GET", "/readyz")
            return there.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            there.close()


class KubeServer:
    """The double; use it as a context manager.

    Parameters
    ----------
    images
        Which bundle folder an image holds, by the bundle's sha256; a pod of any other cannot pull its image.
    """

    def __init__(self, home: Path, images: dict[str, Path]):
        self.home, self.images, self.token = home, images, secrets.token_hex(8)
        self.namespaces, self.custom, self.forbidden = {"default", "models"}, set(CUSTOM), set()
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.services: dict[str, Service] = {}
        self.writes: list[str] = []  # method, kind/name of each accepted change
        self.before: Callable[[str, str, bytes], bytes] = lambda method, path, body: body  # a test may interfere
        self.lock, self._version, self._ended = threading.RLock(), 0, threading.Event()

    def __enter__(self) -> "KubeServer":
        self._api = _serve(self, _Api)
        self._front = _serve(self, _Front)
        self.url, self.front = (f"http://127.0.0.1:{one.server_port}" for one in (self._api, self._front))
        self._controller = threading.Thread(target=self._reconcile_for_ever, daemon=True)
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._controller.join(10)
        for server in (self._api, self._front):
            server.shutdown()
            server.server_close()
        for service in self.services.values():
            end_group(service.process)
            assert service.process.poll() is not None

    def kubeconfig(self, path: Path, *, token: str | None = None, server: str | None = None) -> Path:
        """Write the kubeconfig that leads here."""
        told = {"apiVersion": "v1", "kind": "Config", "current-context": "double",
                "clusters": [{"name": "double", "cluster": {"server": server or self.url}}],
                "users": [{"name": "me", "user": {"token": token or self.token}}],
                "contexts": [{"name": "double", "context": {"cluster": "double", "user": "me", "namespace": "models"}}]}
        path.write_text(yaml.safe_dump(told), encoding="utf-8")
        return path

    # --- objects ---------------------------------------------------------------------------------------------------

    def of(self, kind: str, namespace: str | None = None, **labels: str) -> list[dict[str, Any]]:
        """The objects of a kind."""
        with self.lock:
            found = [one for (k, ns, _), one in sorted(self.objects.items()) if k == kind and namespace in (None, ns)]
        return [one for one in found if labels.items() <= one["metadata"].get("labels", {}).items()]

    def apply(self, kind: str, namespace: str, name: str, one: dict[str, Any], dry: bool) -> dict[str, Any]:
        if one.get("kind") != kind or one.get("metadata", {}).get("name") != name:
            raise Refused(400, "BadRequest", "the object does not match the path")
        if one["metadata"].get("namespace", namespace) != namespace:
            raise Refused(400, "BadRequest", "the namespace of the object does not match the path")
        if namespace not in self.namespaces:
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found', kind="namespaces", name=namespace)
        check_object(one)
        with self.lock:
            return self._merged(kind, namespace, name, copy.deepcopy(one), dry)

    def _merged(self, kind: str, namespace: str, name: str, one: dict[str, Any], dry: bool) -> dict[str, Any]:
        live = self.objects.get((kind, namespace, name))
        own = {"uid": secrets.token_hex(8), "creationTimestamp": datetime.now(UTC).isoformat(), "generation": 1}
        kept = {key: live["metadata"][key] for key in own} if live else own
        one["metadata"] = {**one["metadata"], "namespace": namespace, **kept}
        if kind == "Deployment":
            one["spec"].setdefault("replicas", live["spec"]["replicas"] if live else 1)
            if live and live["spec"]["selector"] != one["spec"]["selector"]:
                raise Refused(422, "Invalid", f'Deployment "{name}" is invalid: spec.selector: field is immutable')
        same = live is not None and _content(live) == _content(one)
        if live and not same and live.get("spec") != one.get("spec"):
            one["metadata"]["generation"] += 1
        one["status"] = live.get("status", {}) if live else {}
        one["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"] if same else str(self._version + 1)
        if not dry and not same:
            self._version += 1
            self.objects[kind, namespace, name] = one
            self.writes.append(f"apply {kind}/{name}")
        return one

    def delete(self, kind: str, namespace: str, name: str) -> None:
        with self.lock:
            if self.objects.pop((kind, namespace, name), None) is None:
                raise Refused(404, "NotFound", f'{kind} "{name}" not found', name=name, kind=kind)
            self.writes.append(f"delete {kind}/{name}")

    # --- what controllers and the kubelet do -------------------------------------------------------------------------

    def _reconcile_for_ever(self) -> None:
        while not self._ended.wait(0.05):
            for deployment in self.of("Deployment"):
                self._reconcile(deployment)
            for pod in self.of("Pod"):
                if not any(d["metadata"]["uid"] == pod["metadata"]["ownerUid"] for d in self.of("Deployment")):
                    self._forget(pod)

    def _reconcile(self, deployment: dict[str, Any]) -> None:
        at, wanted = deployment["metadata"], deployment["spec"]["replicas"]
        for scaler in self.of("HorizontalPodAutoscaler", at["namespace"]):
            if scaler["spec"]["scaleTargetRef"]["name"] == at["name"]:
                wanted = deployment["spec"]["replicas"] = max(wanted, scaler["spec"]["minReplicas"])
        template = deployment["spec"]["template"]
        digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        pods = [pod for pod in self.of("Pod", at["namespace"]) if pod["metadata"]["ownerUid"] == at["uid"]]
        for pod in pods:
            self._look(pod)
        new = [pod for pod in pods if pod["metadata"]["labels"]["pod-template-hash"] == digest]
        old = [pod for pod in pods if pod not in new]
        ready = [pod for pod in pods if _ready(pod)]
        if len(new) < wanted and len(pods) <= wanted:
            self._start(deployment, digest)
        elif len(ready) > wanted or (old and len(new) >= wanted and not all(map(_ready, old))):
            self._forget(next((pod for pod in old if not _ready(pod)), None) or next(iter(old), None) or new[-1])
        elif len(new) > wanted:
            self._forget(new[-1])
        status = {"observedGeneration": at["generation"], "replicas": len(pods), "updatedReplicas": len(new),
                  "readyReplicas": len(ready), "availableReplicas": len(ready), "conditions": []}
        with self.lock:
            deployment["status"] = {key: value for key, value in status.items() if value != 0}

    def _start(self, deployment: dict[str, Any], digest: str) -> None:
        at, template = deployment["metadata"], copy.deepcopy(deployment["spec"]["template"])
        account = template["spec"]["serviceAccountName"]
        if ("ServiceAccount", at["namespace"], account) not in self.objects:
            return  # admission: a pod without its account is not made
        name = f"{at['name']}-{digest}-{secrets.token_hex(3)[:5]}"
        labels = {**template["metadata"]["labels"], "pod-template-hash": digest}
        metadata = {**template["metadata"], "name": name, "namespace": at["namespace"], "labels": labels, "ownerUid": at["uid"]}
        with self.lock:
            self.objects["Pod", at["namespace"], name] = {
                "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}}

    def _look(self, pod: dict[str, Any]) -> None:
        """Bring a pod's status up to date; its process is begun here."""
        try:
            service = self._service(pod)
        except LookupError as error:
            reason, _, message = str(error.args[0]).partition(": ")
            self._note(pod, {"waiting": {"reason": reason, "message": message}}, False)
            return
        if service.process.poll() is None:
            self._note(pod, {"running": {}}, service.ready())
        else:
            ended = {"reason": "CrashLoopBackOff", "message": f"exit {service.process.returncode}"}
            self._note(pod, {"waiting": ended}, False, restarts=3)

    def _note(self, pod: dict[str, Any], state: dict[str, Any], ready: bool, restarts: int = 0) -> None:
        condition = {"type": "Ready", "status": str(ready), "reason": "" if ready else "ContainersNotReady"}
        with self.lock:
            pod["status"] = {"phase": "Running" if "running" in state else "Pending", "conditions": [condition],
                             "containerStatuses": [{"name": "service", "ready": ready, "restartCount": restarts, "state": state}]}

    def _service(self, pod: dict[str, Any]) -> Service:
        """The process of a pod's container; raises LookupError with the kubelet's words."""
        container, at = pod["spec"]["containers"][0], pod["metadata"]
        folder = self.images.get(at["annotations"].get(BUNDLE, ""))
        if folder is None:
            raise LookupError(f"ImagePullBackOff: Back-off pulling image {container['image']}")
        environ, files = self._mounted(pod, container)
        key = hashlib.sha256(json.dumps([str(folder), environ], sort_keys=True).encode()).hexdigest()[:12]
        home = self.home / key
        environ = {name: value.replace("$POD", str(home)) for name, value in environ.items()}
        if key not in self.services:
            self.services[key] = Service(folder, home, environ)
        for name, content in files.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
        return self.services[key]

    def _mounted(self, pod: dict[str, Any], container: dict[str, Any]) -> tuple[dict[str, str], dict[str, bytes]]:
        """The container's variables, with mounted paths within the pod's folder, and the files of its Secrets."""
        namespace, volumes = pod["metadata"]["namespace"], {one["name"]: one for one in pod["spec"]["volumes"]}
        environ, files = {}, {}
        for one in container["env"]:
            source = one.get("valueFrom", {}).get("secretKeyRef")
            environ[one["name"]] = self._secret(namespace, source["name"])[source["key"]].decode() if source else one["value"]
        for mount in container["volumeMounts"]:
            held = volumes[mount["name"]].get("secret", {}).get("secretName")
            for name, content in self._secret(namespace, held).items() if held else ():
                if name in {item["key"] for item in volumes[mount["name"]]["secret"]["items"]}:
                    files[f"{mount['mountPath'].lstrip('/')}/{name}"] = content
            for name, value in environ.items():
                if value == mount["mountPath"] or value.startswith(mount["mountPath"] + "/"):
                    environ[name] = f"$POD{value}"
        return environ, files

    def _secret(self, namespace: str, name: str) -> dict[str, bytes]:
        found = self.objects.get(("Secret", namespace, name))
        if found is None:
            raise LookupError(f'CreateContainerConfigError: secret "{name}" not found')
        return {key: base64.b64decode(text) for key, text in found["data"].items()}

    def _forget(self, pod: dict[str, Any]) -> None:
        with self.lock:
            self.objects.pop(("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]), None)

    # --- reaching pods -----------------------------------------------------------------------------------------------

    def behind(self, namespace: str, service: str) -> list[dict[str, Any]]:
        """The ready pods that a Service chooses."""
        found = self.objects.get(("Service", namespace, service))
        if found is None:
            raise Refused(404, "NotFound", f'services "{service}" not found', kind="services", name=service)
        return [pod for pod in self.of("Pod", namespace, **found["spec"]["selector"]) if _ready(pod)]

    def routed(self, host: str) -> list[dict[str, Any]]:
        """The ready pods behind the Ingress of a host."""
        for one in self.of("Ingress"):
            for rule in one["spec"]["rules"]:
                if rule["host"] == host:
                    backend = rule["http"]["paths"][0]["backend"]["service"]["name"]
                    return self.behind(one["metadata"]["namespace"], backend)
        raise Refused(404, "NotFound", f"no ingress for {host}")

    def service_of(self, pod: dict[str, Any]) -> Service:
        """The process of a pod."""
        with self.lock:
            return self._service(pod)


def _content(one: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: one["metadata"].get(key) for key in ("labels", "annotations")}
    return {key: value for key, value in one.items() if key not in ("metadata", "status")} | metadata


def _ready(pod: dict[str, Any]) -> bool:
    return any(state["ready"] for state in pod["status"].get("containerStatuses", []))


class _Listener(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *where: Any) -> None:
        """A caller that goes in the middle of an answer is no fault."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*where)


def _serve(server: KubeServer, handler: type) -> ThreadingHTTPServer:
    found = _Listener(("127.0.0.1", 0), functools.partial(handler, server))
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the answer's body waits 40 ms for an acknowledgement of its headers

    def __init__(self, server: KubeServer, *arguments: Any):
        self.kube = server
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        body = self._body()
        try:
            self._answer(body)
        except Refused as error:
            self._send(error.status, json.dumps(error.body).encode())

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _handle

    def _forward(self, pods: list[dict[str, Any]], path: str, body: bytes, dropped: set[str]) -> None:
        if not pods:
            raise Refused(503, "ServiceUnavailable", "no endpoints available")
        service = self.kube.service_of(secrets.choice(pods))
        headers = {key: value for key, value in self.headers.items() if key.lower() not in dropped | {"host", "connection"}}
        there = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        try:
            there.request(self.command, path, body, headers)
            answer = there.getresponse()
            self._send(answer.status, answer.read(), answer.headers.get("Content-Type", ""))
        except OSError as error:
            raise Refused(503, "ServiceUnavailable", f"error trying to reach service: {error}") from None
        finally:
            there.close()


class _Front(_Handler):
    """The ingress controller: by the host's name to a Service."""

    def _answer(self, body: bytes) -> None:
        host = self.headers["Host"].split(":")[0]
        self._forward(self.kube.routed(host), self.path, body, set())


class _Api(_Handler):
    """The API server."""

    def _answer(self, body: bytes) -> None:
        address = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if self.headers.get("Authorization") != f"Bearer {self.kube.token}":
            raise Refused(401, "Unauthorized", "Unauthorized")
        found = re.fullmatch(r"/(api/v1|apis/[^/]+/[^/]+)/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?(/log|/proxy/.*)?", address.path)
        if not found:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        prefix, namespace, plural, name, rest = found.groups()
        kind = (PLURALS | READ_ONLY).get((prefix, plural))
        if kind is None or (kind in CUSTOM and kind not in self.kube.custom):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        body = self.kube.before(self.command, address.path, body)
        if (self.command, plural) in self.kube.forbidden:
            words = f'{plural} is forbidden: User "me" cannot {self.command.lower()} resource "{plural}"'
            raise Refused(403, "Forbidden", words)
        if rest and rest.startswith("/proxy/"):
            self._proxy(kind, namespace, name, rest.removeprefix("/proxy"), body)
        elif rest == "/log":
            self._log(namespace, name, int(query.get("tailLines", 100)))
        else:
            self._send(200, json.dumps(self._object(kind, namespace, name, query, body)).encode())

    def _proxy(self, kind: str, namespace: str, name: str, path: str, body: bytes) -> None:
        name, _, port = name.partition(":")
        if port not in ("http", "3000"):
            raise Refused(503, "ServiceUnavailable", f"no endpoints available for port {port}")
        pods = self.kube.behind(namespace, name) if kind == "Service" else [self._get("Pod", namespace, name)]
        self._forward(pods, path, body, {"authorization"})

    def _log(self, namespace: str, name: str, lines: int) -> None:
        try:
            text = self.kube.service_of(self._get("Pod", namespace, name)).output.read_text(errors="replace")
        except LookupError:
            raise Refused(400, "BadRequest", "container is waiting to start") from None
        self._send(200, "\n".join(text.splitlines()[-lines:]).encode(), "text/plain")

    def _get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        with self.kube.lock:
            found = self.kube.objects.get((kind, namespace, name))
            if found is None:
                raise Refused(404, "NotFound", f'{kind} "{name}" not found', kind=kind, name=name)
            return copy.deepcopy(found)

    def _object(self, kind: str, namespace: str, name: str | None, query: dict[str, str], body: bytes) -> dict[str, Any]:
        if self.command == "GET" and name is None:
            labels = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
            return {"kind": f"{kind}List", "apiVersion": "v1", "items": copy.deepcopy(self.kube.of(kind, namespace, **labels))}
        if self.command == "GET":
            return self._get(kind, namespace, name)
        if self.command == "DELETE":
            self.kube.delete(kind, namespace, name)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        if self.command == "PATCH" and kind in KINDS:
            if self.headers["Content-Type"] != "application/apply-patch+yaml" or not query.get("fieldManager"):
                raise Refused(415, "UnsupportedMediaType", "only server-side apply by a field manager is understood here")
            return self.kube.apply(kind, namespace, name, json.loads(body), query.get("dryRun") == "All")
        raise Refused(405, "MethodNotAllowed", f"{self.command} is not supported")


def until(condition: Callable[[], object], seconds: float = 30.0) -> object:
    """Wait for something to become true; returns what it was at last."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found

