"""Makes the file trees of a lean image, in the builder, in three steps: what the running service needs, and a list of it.

- ``see``: the service is started once, asked by every route (`exercise.py`) and watched; writes `/seen`, the files that
  Python ran or opened. Where these are the same as for the model before, the builder keeps the next step's layers.
- ``pack``: writes `/out/runtime`, the interpreter, its library, the shared libraries that anything here is linked with,
  certificates, users; and `/out/packages`, the virtual environment. What was used gets its bytecode, and of what `rules.py`
  names nothing that was used is left out.
- ``finish``: writes `/out/bundle`, the Bento with bytecode, the list of sizes and the bill of materials.

Each file's time is the same in every build. Needs Python's own library, and `ldd`.
"""

import functools
import glob
import importlib.util
import json
import marshal
import os
import py_compile
import re
import secrets
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from exercise import ask, exercise, faults
from rules import READ_THEMSELVES, SOURCES, SYMBOLS, loaded_size, spare

SERVICE, BENTO, OUT, SEEN = (Path(path) for path in ("/opt/service", "/bento", "/out", "/seen"))
PATIENCE_S = 240.0
NOT_LIBRARY = r"^(test|idlelib|lib2to3|turtledemo|ensurepip|tkinter|pydoc_data|config-[^/]*)/|(^|/)tests?/|^lib-dynload/(_test|_ctypes_test|_tkinter|_xx|xx|nis|_dbm|_gdbm|readline|ossaudiodev|spwd|audioop)"
EXTRA = ("libgcc_s.so.1",)  # opened by the C library itself when a thread ends


# --- what is used ----------------------------------------------------------------------------------------------------


def wait_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until the service is ready; ends the build where it does not become so."""
    end, refused = time.monotonic() + PATIENCE_S, ""
    while process.poll() is None and time.monotonic() < end and not refused:
        try:
            if ask(url, "/readyz", "", timeout_s=5) == 200:
                return
            refused = refusal(url)
        except OSError:
            pass
        time.sleep(0.1)
    give_up(refused or "it must become ready", log)


def give_up(told: str, log: Path) -> None:
    """End the build; the reason comes last, since the last lines are what an engine tells of a build."""
    sys.exit(f"{log.read_text(errors='replace')[-3000:]}\nlean-service: {told}")


def refusal(url: str) -> str:
    """Why a service will not become ready, by its own words; empty when it is only starting."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/readyz", timeout=5).close()
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        return json.loads(text)["errors"][0]["problem"] if "refuses to answer" in text else ""
    return ""


def trace(work: Path) -> set[str]:
    """Start the service, ask it everything, end it; the files that Python ran or opened."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, log, noted = secrets.token_hex(16), work / "log", work / "trace"
    environ = {
        "PATH": f"{SERVICE}/bin:{os.environ['PATH']}", "HOME": str(work), "LANG": "C.UTF-8", "BENTOML_HOME": str(work / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True", "PYTHONUNBUFFERED": "1", "PYTHONPYCACHEPREFIX": os.environ["PYTHONPYCACHEPREFIX"], "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(Path(__file__).parent), "LEAN_TRACE": str(noted), "MLW_PROBE_TOKEN": token, "MLW_LOG_DIR": str(work / "kept"),
    }
    command = [f"{SERVICE}/bin/python", "-m", "bentoml", "serve", str(BENTO), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=BENTO / "src", env=environ, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        wait_ready(f"http://127.0.0.1:{port}", process, log)
        wrong = faults(exercise(f"http://127.0.0.1:{port}", BENTO / "src", token))
    finally:
        process.terminate()
        process.wait(30)
    if wrong:
        give_up(f"it must answer every route, got {', '.join(wrong)}", log)
    return {os.path.realpath(line) for line in noted.read_text(errors="surrogateescape").splitlines()}


# --- shared libraries ------------------------------------------------------------------------------------------------


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def linked(paths: Iterable[Path]) -> tuple[set[str], dict[str, set[str]]]:
    """What these are linked with: paths of libraries, and the names of those that are not there, by who wants them."""
    todo, found, missing = [str(path) for path in paths], set(), {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for told, who in pool.map(_linked, [todo[start : start + 50] for start in range(0, len(todo), 50)]):
            found |= told
            for name, wanting in who:
                missing.setdefault(name, set()).add(wanting)
    return found, missing


def _linked(part: list[str]) -> tuple[set[str], list[tuple[str, str]]]:
    told = subprocess.run(["ldd", *part], capture_output=True, text=True, errors="replace").stdout
    found, missing, who = set(), [], part[0]
    for line in told.splitlines():
        if not line[:1].isspace() and line.endswith(":"):
            who = line[:-1]
        elif "not found" in line:
            missing.append((line.split()[0], who))
        elif match := re.search(r"(/\S+) \(0x", line):
            found.add(match[1])
    return found, missing


def strip(path: Path) -> int:
    """Cut off what is never loaded: names and debugging symbols; the bytes that this saves."""
    data = bytearray(path.read_bytes())
    end = loaded_size(data, len(data))
    if end == len(data):
        return 0
    order, saved = "<" if data[5] == 1 else ">", len(data) - end
    struct.pack_into(f"{order}Q", data, 40, 0)  # no table of sections any more
    struct.pack_into(f"{order}HHH", data, 58, 0, 0, 0)
    path.write_bytes(data[:end])
    return saved


# --- trees -----------------------------------------------------------------------------------------------------------


def copy(source: Path, tree: Path, at: str | None = None) -> Path:
    """Copy a file into a tree, at its own path or another; a link is copied as what it leads to."""
    target = tree / (at or str(source)).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    return target


def write(tree: Path, path: str, text: str) -> None:
    """Write a file into a tree."""
    target = tree / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def place_bytecode(tree: Path, used: Iterable[str], keep_source: bool) -> tuple[int, int]:
    """Put the bytecode that the trace made into a tree, never checked against its source; its bytes, and those it replaced.

    Read and written once more in the order of the names, so that it is the same in every build.
    """
    total, replaced = 0, 0
    for path in sorted(used):
        source, made = tree / path.lstrip("/"), Path(importlib.util.cache_from_source(path))  # below PYTHONPYCACHEPREFIX
        if not path.endswith(".py") or not source.is_file():
            continue
        if not made.is_file():
            py_compile.compile(path, str(made), doraise=True)
        code = marshal.loads(made.read_bytes()[16:])
        head = importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + importlib.util.source_hash(source.read_bytes())
        whole = keep_source or any(f"/site-packages/{name}/" in path for name in READ_THEMSELVES)
        target = source.parent / "__pycache__" / made.name if whole else source.with_suffix(".pyc")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(head + marshal.dumps(code))
        total += target.stat().st_size
        if not whole:
            replaced += source.stat().st_size
            source.unlink()
    return total, replaced


def settle(tree: Path) -> None:
    """The same time and rights for everything in a tree."""
    for path in sorted(tree.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod((path.stat().st_mode | 0o444 | (0o111 if path.is_dir() else 0)) & ~0o022)
        os.utime(path, (0, 0), follow_symlinks=False)
    os.utime(tree, (0, 0))


# --- packages --------------------------------------------------------------------------------------------------------


@functools.cache
def distributions() -> list[tuple[str, metadata.Distribution, list[Path]]]:
    """The installed distributions: canonical name, metadata, files."""
    listed = []
    site = SERVICE / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for found in sorted(metadata.distributions(path=[str(site)]), key=lambda d: d.metadata["Name"].lower()):
        files = {Path(os.path.normpath(site / str(file))) for file in found.files or ()}
        listed.append((re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found, sorted(f for f in files if f.is_file())))
    return listed


def pack_packages(used: set[str]) -> tuple[list[dict], list[Path]]:
    """Copy the virtual environment into its tree; what is told of each package, and the ELF files that were copied."""
    tree, told, elves = OUT / "packages", [], []
    for name, found, files in distributions():
        site = Path(str(found.locate_file("")))
        out = spare(name, site, files, used)
        kept = [f for f in files if f not in out]
        saved = 0
        for file in kept:
            target = copy(file, tree)
            if is_elf(target):
                saved += strip(target)
                elves.append(file)
        reasons: dict[str, int] = {}
        for file, why in out.items():
            reasons[why] = reasons.get(why, 0) + file.stat().st_size
        if saved:
            reasons[SYMBOLS] = saved
        told.append({"name": name, "version": found.version, "installed": sum(f.stat().st_size for f in files),
                     "kept": sum(f.stat().st_size for f in kept) - saved, "left_out": reasons,
                     "own": [str(f) for f in kept if str(f) in used and f.suffix == ".py"]})
    write(tree, f"{SERVICE}/pyvenv.cfg", (SERVICE / "pyvenv.cfg").read_text())
    for name in ("python", "python3"):
        (tree / f"{SERVICE}/bin/{name}".lstrip("/")).symlink_to(os.path.realpath(sys.executable))
    return told, elves


# --- the interpreter -------------------------------------------------------------------------------------------------


def pack_runtime(used: set[str], elves: list[Path]) -> tuple[list[str], dict[str, set[str]]]:
    """Copy interpreter, library and shared libraries into their tree; the copied system files, and what is missing."""
    tree, library = OUT / "runtime", Path(sysconfig.get_path("stdlib"))
    interpreter = Path(os.path.realpath(sys.executable))
    copied = [str(copy(interpreter, tree))[len(str(tree)) :]]
    elves = [*elves, interpreter]
    for file in sorted(library.rglob("*")):
        inside = str(file.relative_to(library))
        if not file.is_file() or "__pycache__" in inside or inside.startswith(("site-packages/", "dist-packages/")):
            continue
        if re.search(NOT_LIBRARY, inside) and os.path.realpath(file) not in used:
            continue
        copy(file, tree)
        if file.suffix == ".so":
            elves.append(file)
    libraries, missing = linked(elves)
    libraries |= {path for name in EXTRA for path in glob.glob(f"/lib/*/{name}") + glob.glob(f"/usr/lib*/{name}")}
    libraries |= {path for path in used if re.search(r"\.so(\.|$)", path)}
    outside = sorted(path for path in libraries if not path.startswith((f"{SERVICE}/", f"{library}/")) and os.path.isfile(path))
    for path in outside:
        target = copy(Path(path), tree)
        strip(target)
        copied.append(path)
    pack_surroundings(tree)
    return copied, missing


def pack_surroundings(tree: Path) -> None:
    """What a process expects to find around it: users, names, certificates, time zones, a place for temporary files."""
    write(tree, "/etc/passwd", "root:x:0:0:root:/root:/nonexistent\nservice:x:10001:10001:service:/tmp:/nonexistent\n"
                               "nobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n")
    write(tree, "/etc/group", "root:x:0:\nservice:x:10001:\nnogroup:x:65534:\n")
    write(tree, "/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    authorities = next((p for p in map(Path, (ssl.get_default_verify_paths().openssl_cafile, "/etc/ssl/certs/ca-certificates.crt"))
                        if p.is_file()), None)
    if authorities:
        for place in {ssl.get_default_verify_paths().openssl_cafile, "/etc/ssl/certs/ca-certificates.crt"}:
            copy(authorities, tree, place)
    for path in ("/etc/os-release", "/etc/ld.so.cache", "/etc/localtime", *glob.glob("/etc/ld-musl-*.path")):
        if os.path.isfile(path):
            copy(Path(path), tree)
    zones = Path("/usr/share/zoneinfo")
    if zones.is_dir() and not list(SERVICE.glob("lib/python*/site-packages/tzdata")):
        for file in zones.rglob("*"):
            if file.is_file() and not re.search(r"/(right|posix)/", str(file)):
                copy(file, tree)
    (tree / "tmp").mkdir(parents=True, exist_ok=True)


# --- all of it -------------------------------------------------------------------------------------------------------


def size_of(tree: Path) -> int:
    """Bytes of a tree's files."""
    return sum(f.lstat().st_size for f in tree.rglob("*") if f.is_file() and not f.is_symlink())


def copy_library_bytecode() -> None:
    """The bytecode of Python's own library once more, as it lies beside sources: for an image that keeps all of its base."""
    library = OUT / "runtime" / sysconfig.get_path("stdlib").lstrip("/")
    for made in library.rglob("*.pyc"):
        name = f"{made.stem}.{sys.implementation.cache_tag}.pyc"
        copy(made, OUT / "library", f"/{made.parent.relative_to(OUT / 'runtime')}/__pycache__/{name}")
    settle(OUT / "library")


def see() -> None:
    """Write the files that the service used: the bundle's own, and all others."""
    work = Path("/tmp/lean")
    work.mkdir(parents=True)
    used = sorted(path for path in trace(work) if os.path.isfile(path))
    SEEN.mkdir()
    for name, own in (("bundle", True), ("used", False)):
        (SEEN / name).write_text("".join(f"{path}\n" for path in used if path.startswith(f"{BENTO}/") == own))
    print(f"lean: {len(used)} files were used", flush=True)


def pack() -> None:
    """Write the trees of the interpreter and of the packages."""
    from bom import system_components

    used = set((SEEN / "used").read_text().splitlines())
    count = len(used)
    # a library that another file is linked with is in use, too
    shared = [f for _, _, files in distributions() for f in files if re.search(r"\.so(\.|$)", f.name) and is_elf(f)]
    used |= {os.path.realpath(path) for path in linked([f for f in shared if str(f) in used])[0]}
    packages, elves = pack_packages(used)
    system, missing = pack_runtime(used, elves)
    made = {tree: place_bytecode(OUT / tree, used, False)[0] for tree in ("runtime", "packages")}
    for package in packages:
        own = [OUT / "packages" / path.lstrip("/") for path in package.pop("own")]
        places = [p for path in own for p in (path.with_suffix(".pyc"), *path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))]
        package["bytecode"] = sum(p.stat().st_size for p in places if p.is_file())
        gone = sum((SERVICE / p.relative_to(OUT / "packages/opt/service")).stat().st_size for p in own if not p.is_file())
        package["kept"] -= gone
        package["left_out"] |= {SOURCES: gone} if gone else {}
    copy_library_bytecode()
    debian = system_components(system, OUT / "runtime")
    listed = {"packages": packages, "bytecode": made, "files_used": count, "system": debian,
              "missing": {name: sorted(who) for name, who in sorted(missing.items())}}
    listed["trees"] = {tree: size_of(OUT / tree) for tree in made}
    (OUT / "lists.json").write_text(json.dumps(listed))
    for tree in made:
        settle(OUT / tree)
    (OUT / "runtime/tmp").chmod(0o1777)
    print(f"lean: {', '.join(f'{tree} {size / 1e6:.0f} MB' for tree, size in listed['trees'].items())}", flush=True)


def finish() -> None:
    """Write the tree of the bundle, with the lists."""
    from bom import write_bom

    tree, listed = OUT / "bundle", json.loads((OUT / "lists.json").read_text())
    shutil.copytree(BENTO, tree / "bento", ignore=shutil.ignore_patterns("__pycache__"))
    listed["bytecode"]["bundle"] = place_bytecode(tree, (SEEN / "bundle").read_text().splitlines(), True)[0]
    listed["trees"]["bundle"] = size_of(tree)
    write_bom(tree, listed)
    listed["system"] = [{"name": c["name"], "version": c["version"]} for c in listed["system"]]
    write(tree, "/opt/sbom/inventory.json", json.dumps(listed, indent=1, sort_keys=True) + "\n")
    settle(tree)


if __name__ == "__main__":
    {"see": see, "pack": pack, "finish": finish}[sys.argv[1]]()
