"""Writes the image's bill of materials, CycloneDX 1.6 in JSON: where everything is installed, its truth is at hand.

Nothing in it differs from build to build: no time, and a serial number made of the bundle's hash.
"""

import json
import os
import platform
import re
import subprocess
import tomllib
import uuid
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

LOCK = Path("/opt/pylock.toml")


def licences(found: metadata.Distribution) -> list[dict]:
    """What a distribution says of its licence: an SPDX expression, else a short name, else its classifiers."""
    told = found.metadata
    if expression := told.get("License-Expression"):
        return [{"expression": expression}]
    text = (told.get("License") or "").strip()
    if text and len(text) <= 80 and "\n" not in text and text.upper() != "UNKNOWN":
        return [{"license": {"name": text}}]
    names = [c.rsplit(" :: ", 1)[-1] for c in told.get_all("Classifier") or () if c.startswith("License :: ")]
    return [{"license": {"name": name}} for name in sorted(set(names))]


def wheel_hashes() -> dict[str, list[tuple[set[str], str]]]:
    """By distribution its wheels in the index: the tags in the file's name, and the SHA-256; nothing where there is no lock."""
    found: dict[str, list[tuple[set[str], str]]] = {}
    packages = tomllib.loads(LOCK.read_text(encoding="utf-8")).get("packages", ()) if LOCK.is_file() else ()
    for package in packages:
        for wheel in package.get("wheels", ()):
            name = wheel.get("name") or wheel.get("url") or wheel.get("path") or ""
            python, abi, platforms = name.removesuffix(".whl").split("-")[-3:]
            tags = {f"{p}-{a}-{s}" for p in python.split(".") for a in abi.split(".") for s in platforms.split(".")}
            found.setdefault(package["name"], []).append((tags, wheel.get("hashes", {}).get("sha256", "")))
    return found


def sha256_of(name: str, found: metadata.Distribution, wheels: dict[str, list[tuple[set[str], str]]]) -> str:
    """The hash of the wheel that was installed, found by its tags; empty where the index told none."""
    told = found.read_text("WHEEL") or ""
    tags = set(re.findall(r"(?m)^Tag: (\S+)", told))
    return next((sha for known, sha in wheels.get(name, ()) if known == tags), "")


def python_components() -> list[dict]:
    """A component a package of the lock."""
    from lean import distributions

    wheels, made = wheel_hashes(), []
    for name, found, _ in distributions():
        component = {"type": "library", "bom-ref": f"pkg:pypi/{name}@{found.version}", "name": name, "version": found.version,
                     "purl": f"pkg:pypi/{name}@{quote(found.version, safe='')}"}
        if sha := sha256_of(name, found, wheels):
            component["hashes"] = [{"alg": "SHA-256", "content": sha}]
        if known := licences(found):
            component["licenses"] = known
        made.append(component)
    return made


def owners(files: list[str]) -> set[str]:
    """The Debian packages that these files belong to; none where dpkg is not there."""
    both = [p for path in files for p in {path, path.removeprefix("/usr"), "/usr" + path, os.path.realpath(path)}]
    try:
        told = subprocess.run(["dpkg-query", "-S", *both], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return set()
    return {name.strip() for line in told.splitlines() if ": " in line for name in line.split(": ")[0].split(",")}


def system_components(files: list[str], tree: Path) -> list[dict]:
    """A component a Debian package that a file came from; scanners find each in the place that images without dpkg have."""
    names, made = sorted(owners(files)), []
    if not names:
        return made
    distribution = re.search(r"(?m)^ID=\"?(\w+)", Path("/etc/os-release").read_text())[1]
    told = subprocess.run(["dpkg-query", "-W", "-f", "${Package}\t${Version}\t${Architecture}\n", *names],
                          capture_output=True, text=True, check=True).stdout
    for line in told.splitlines():
        name, version, architecture = line.split("\t")
        purl = f"pkg:deb/{distribution}/{quote(name)}@{quote(version, safe='')}?arch={architecture}"
        made.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
        status = subprocess.run(["dpkg-query", "-s", name], capture_output=True, text=True, check=True).stdout
        target = tree / "var/lib/dpkg/status.d" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(status, encoding="utf-8")
        copyright = Path(f"/usr/share/doc/{name}/copyright")
        if copyright.is_file():
            place = tree / str(copyright).lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(copyright.read_bytes())
    return made


def write_bom(tree: Path, listed: dict) -> None:
    """Write the bill of materials into a tree; the system's components are among what is `listed`."""
    manifest = json.loads(Path("/bento/src/manifest.json").read_text(encoding="utf-8"))
    name, version = manifest["name"], manifest["version"]
    model = {"type": "machine-learning-model", "bom-ref": f"model:{name}@{version}", "name": name, "version": version,
             "description": f"{manifest['original'].get('type', 'model')} for the task {manifest['model']['task']}",
             "hashes": [{"alg": "SHA-256", "content": manifest["original"]["sha256"]}]}
    python = platform.python_version()
    interpreter = {"type": "application", "bom-ref": f"python@{python}", "name": "cpython", "version": python,
                   "purl": f"pkg:generic/python@{python}", "licenses": [{"license": {"id": "PSF-2.0"}}]}
    components = [model, interpreter, *python_components(), *listed["system"]]
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, manifest['content_sha256'])}",
        "metadata": {"component": {"type": "container", "bom-ref": f"image:{name}@{version}", "name": name, "version": version}},
        "components": components,
        "dependencies": [{"ref": f"image:{name}@{version}", "dependsOn": [c["bom-ref"] for c in components]}],
    }
    target = tree / "opt/sbom/bom.cdx.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bom, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
