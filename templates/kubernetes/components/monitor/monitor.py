import os, sys
from dataclasses import replace
from pathlib import Path
from mlworkbench.bundling.verify import read_part
from mlworkbench.monitoring.logs import LogView, parse_since
from mlworkbench.monitoring.monitor import monitor_log, read_reference
from mlworkbench.monitoring.private import read_private
bundle, log = Path(os.environ["MLW_BUNDLE"]), Path(os.environ["MLW_LOG_DIR"])
known = replace(read_reference(bundle), private=read_private(read_part(bundle, "service.json"), log))
found = monitor_log(LogView(log, known.model, parse_since("7d")), known, name=os.environ["MLW_DEPLOYMENT"])
print(found.headline(), *found.reasons, *found.notes, sep="\n")
sys.exit(found.status == "failed")
