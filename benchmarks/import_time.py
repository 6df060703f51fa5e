"""How long `import mlworkbench` takes, beside the imports that it leaves out. Writes docs/evidence/import_time.md."""

import datetime
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

MODULES = ("mlworkbench", "json", "pydantic", "pandas", "bentoml", "sklearn.ensemble")
ROUNDS = 15


def seconds(module: str) -> float:
    """Wall time of importing `module` in a fresh interpreter, without the interpreter's own start."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ).stdout)


def main() -> None:
    times: dict[str, list[float]] = {m: [] for m in MODULES}
    for _ in range(ROUNDS):
        for module in MODULES:
            times[module].append(seconds(module))
    own = statistics.median(times["mlworkbench"])
    rows = [f"| `{m}` | {statistics.median(t) * 1000:.1f} | {statistics.median(t) / own:.1f} |" for m, t in times.items()]
    text = "\n".join([
        "# Import time", "",
        f"{datetime.date.today()}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, medians of {ROUNDS} fresh "
        "interpreters, interleaved. `python benchmarks/import_time.py`", "",
        "| import | ms | ratio to mlworkbench |", "|---|---|---|", *rows, "",
    ])
    path = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "import_time.md"
    path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    start = time.monotonic()
    main()
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
