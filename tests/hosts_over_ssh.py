"""Hosts to deploy to, made of this machine: real ssh servers on loopback, each with a folder of its own."""

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Hosts:
    """An inventory of hosts that are there."""

    folder: Path
    names: tuple[str, ...]
    ports: tuple[int, ...]

    @property
    def inventory(self) -> Path:
        return self.folder / "hosts.json"

    def root(self, name: str) -> Path:
        """Where a host keeps deployments."""
        return self.folder / name

    def write(self, names: tuple[str, ...] | None = None, file: str = "hosts.json", **changed: object) -> Path:
        """Write the inventory, with some of the hosts or other variables for each."""
        hosts = {}
        for name, port in zip(self.names, self.ports, strict=True):
            hosts[name] = {
                "ansible_host": "127.0.0.1", "ansible_port": port, "ansible_user": getpass.getuser(),
                "ansible_ssh_private_key_file": str(self.folder / "key"), "mlw_root": str(self.root(name)),
                "ansible_remote_tmp": str(self.folder / "tmp"),
                "ansible_ssh_common_args": f"-F none -o IdentitiesOnly=yes -o UserKnownHostsFile={self.folder / 'known_hosts'}",
            } | changed
        path = self.folder / file
        path.write_text(json.dumps({"all": {"hosts": {n: hosts[n] for n in names or self.names}}}), encoding="utf-8")
        return path

    def running(self, deployment: str) -> list[str]:
        """A word for each process that belongs to a deployment on any host."""
        mark, found = f"/{deployment}/", []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                line = " ".join(process.cmdline())
                if str(self.folder) in line and mark in line + "/" and process.status() != psutil.STATUS_ZOMBIE:
                    kind = next((k for k in ("supervisor", "door") if f"deployment.{k}" in line), "")
                    if kind:
                        found.append(f"{kind} {process.pid}")
        return sorted(found)

    def processes(self) -> list[str]:
        """Every process that has anything to do with these hosts."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                line = " ".join(process.cmdline())
                if str(self.folder) in line and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(line)
        return found


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [p.getsockname()[1] for p in probes]


def _keys(folder: Path) -> None:
    for name in ("key", "host_key", "stranger"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=30)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")


def _serve(sshd: str, folder: Path, port: int) -> subprocess.Popen:
    config = folder / f"sshd_{port}"
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host_key",
             f"AuthorizedKeysFile {folder}/authorized_keys",
             "StrictModes no", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PidFile none",
             "PermitRootLogin prohibit-password", "MaxStartups 100", "Subsystem sftp internal-sftp", ""]
    config.write_text("\n".join(lines), encoding="utf-8")
    with open(folder / "sshd.log", "ab") as log:
        return subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _await(port: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as channel:
            if channel.recv(4) == b"SSH-":
                return
        time.sleep(0.05)
    raise AssertionError(f"no ssh server on {port}")


@contextlib.contextmanager
def hosts_over_ssh(sshd: str, folder: Path, names: tuple[str, ...] = ("one", "two")) -> Iterator[Hosts]:
    """Hosts within the block; afterwards nothing of them may be left running."""
    _keys(folder)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where the server parts with its rights
    hosts = Hosts(folder, names, tuple(_free_ports(len(names))))
    public = " ".join((folder / "host_key.pub").read_text().split()[:2])
    known = "".join(f"[127.0.0.1]:{port} {public}\n" for port in hosts.ports)
    (folder / "known_hosts").write_text(known, encoding="ascii")
    hosts.write()
    servers = [_serve(sshd, folder, port) for port in hosts.ports]
    try:
        for port in hosts.ports:
            _await(port)
        yield hosts
        end = time.monotonic() + 20  # connections that Ansible keeps for a while
        while [p for p in hosts.processes() if "sshd -D" not in p and "/sshd_" not in p] and time.monotonic() < end:
            time.sleep(0.1)
        left = [p for p in hosts.processes() if "/sshd_" not in p]
    finally:
        for server in servers:
            server.terminate()
            server.wait(10)
    assert left == [], left
