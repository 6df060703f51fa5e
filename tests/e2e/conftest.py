"""JupyterLab in a real browser: one server and one browser for all tests of a run, nothing from outside."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
SETTINGS = {  # what would ask the network, write behind the test's back, or draw only what is in view
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


# Text, its colour over the mixed grounds behind it, and their ratio as WCAG 2.2 defines it; a canvas reads any colour.
CONTRASTS = """root => {
  const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1})
    .getContext('2d', {willReadFrequently: true});
  const grounds = e => e ? [...grounds(e.parentElement), getComputedStyle(e).backgroundColor] : [];
  const paint = colours => { pen.clearRect(0, 0, 1, 1);
    for (const c of colours) { pen.fillStyle = c; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const off = e => e && (+getComputedStyle(e).opacity < 1 || e.disabled || off(e.parentElement));
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), found = [];
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
    if (!text || !e.getClientRects().length || e.closest('style, svg') || off(e)) continue;
    const behind = grounds(e), style = getComputedStyle(e);
    const [a, b] = [light(paint(behind)), light(paint([...behind, style.color]))].sort((x, y) => y - x);
    found.push([text.slice(0, 40), Math.round(100 * (a + 0.05) / (b + 0.05)) / 100]);
  }
  return found;
}"""


class Lab:
    """A JupyterLab server of our own: fresh folders, own port and token, loopback only."""

    def __init__(self, root: Path):
        self.root, self.notebooks, self.token = root, root / "notebooks", secrets.token_hex(16)
        self.notebooks.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        for name, values in SETTINGS.items():
            path = root / "settings" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))

    def environment(self) -> dict[str, str]:
        folders = {
            "HOME": "home", "JUPYTER_CONFIG_DIR": "config", "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
            "MLWORKBENCH_WORKSPACE": "workspace", "JUPYTER_DATA_DIR": "data", "BENTOML_HOME": "bentoml",
        }
        own = {k: str(self.root / v) for k, v in folders.items()}
        # a bundle's own environment and real images have tests of their own
        own["MLWORKBENCH_BUNDLING_ENVIRONMENT"] = "current"
        own["DOCKER_HOST"] = f"unix://{self.root}/no-engine.sock"
        left_out = ("PYTHONDONTWRITEBYTECODE", "MLWORKBENCH_HEADLESS")
        inherited = {k: v for k, v in os.environ.items() if k not in left_out}
        bin_folder = str(Path(sys.executable).parent)
        paths = {
            "PATH": os.pathsep.join([bin_folder, inherited.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")])),  # this checkout
        }
        return {**inherited, **own, **paths}

    def start(self, timeout_s: float = 90.0) -> None:
        for folder in ("home", "ipython"):
            (self.root / folder).mkdir(exist_ok=True)
        argv = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.notebooks}", "--LabApp.expose_app_in_browser=True",
            "--LabApp.extension_manager=readonly", "--ServerApp.terminals_enabled=False",
        ]
        self.log = (self.root / "server.log").open("wb")
        self.process = subprocess.Popen(argv, env=self.environment(), cwd=self.notebooks, stdout=self.log,
                                        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + timeout_s
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("JupyterLab did not start:\n" + (self.root / "server.log").read_text()[-3000:])
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/status?token={self.token}", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def end_kernels(self) -> None:
        """End the kernels of the test that is over."""
        listing = f"{self.url}/api/sessions?token={self.token}"
        with urllib.request.urlopen(listing, timeout=30) as answer:
            for session in json.load(answer):
                one = f"{self.url}/api/sessions/{session['id']}?token={self.token}"
                urllib.request.urlopen(urllib.request.Request(one, method="DELETE"), timeout=30).close()

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(10)
                break
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                break
        self.log.close()

    def write(self, name: str, cells: list[str]) -> str:
        """Write a notebook of code cells; returns its path below the server's root."""
        made = [
            {"cell_type": "code", "id": f"cell{i}", "metadata": {}, "source": source, "outputs": [],
             "execution_count": None}
            for i, source in enumerate(cells)
        ]
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
        (self.notebooks / name).write_text(json.dumps(notebook))
        return name


class LabPage:
    """A notebook open in JupyterLab: what a person does with it, in words."""

    def __init__(self, page, lab: Lab, shots: Path):
        self.page, self.lab, self.shots, self.foreign, self.said = page, lab, shots, [], []
        page.set_default_timeout(90_000)  # two cores are shared with builds and services
        page.on("console", lambda message: self.said.append(message.text) if message.type == "error" else None)
        page.route("**/*", self._guard)

    def _guard(self, route) -> None:
        """Let the server's own requests through; everything else is stopped and remembered."""
        url = route.request.url
        if url.startswith((self.lab.url, self.lab.url.replace("http", "ws"), "data:", "blob:")):
            return route.continue_()
        self.foreign.append(url)
        return route.abort()

    @property
    def notebook(self):
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    def command(self, name: str, **arguments) -> None:
        self.page.evaluate("([n, a]) => window.jupyterapp.commands.execute(n, a)", [name, arguments])

    def open(self, path: str) -> "LabPage":
        """Open a notebook in a fresh workspace, and wait for its kernel."""
        self.page.goto(f"{self.lab.url}/lab/tree/{path}?token={self.lab.token}&reset")
        self.page.wait_for_function("() => window.jupyterapp && window.jupyterapp.restored.then(() => true)")
        self.notebook.locator(".jp-Cell").first.wait_for()
        self.page.wait_for_function(
            "() => { const w = window.jupyterapp.shell.currentWidget;"
            " return w && w.sessionContext && w.sessionContext.session && w.sessionContext.isReady; }"
        )
        if self.page.locator("#jp-left-stack:visible").count():
            self.command("application:toggle-left-area")
        self.theme("light")  # the person's choice lasts: the test before may have left it dark
        return self

    def theme(self, name: str) -> None:
        """`light` or `dark`."""
        self.command("apputils:change-theme", theme=f"JupyterLab {name.capitalize()}")
        wanted = "true" if name == "light" else "false"
        self.page.locator(f"body[data-jp-theme-light='{wanted}']").wait_for(state="attached")
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def run_all(self, timeout_s: float = 60.0) -> None:
        """Run All, and wait until every cell has been run."""
        self.command("notebook:run-all-cells")
        self.page.wait_for_function(
            "() => { const cells = window.jupyterapp.shell.currentWidget.content.widgets;"
            " const code = cells.filter(c => c.model.type === 'code' && c.model.sharedModel.getSource().trim());"
            " const failed = code.some(c => c.outputArea.model.toJSON().some(o => o.output_type === 'error'));"
            " const over = c => c.model.executionCount !== null && c.model.executionState !== 'running';"
            " return failed || (code.length && code.every(over)); }",  # an error ends Run All
            timeout=1000 * timeout_s,
        )

    def all_outputs(self) -> list[dict]:
        """The outputs of all cells, as the notebook holds them."""
        return self.page.evaluate(
            "() => (window.jupyterapp?.shell.currentWidget?.content?.widgets || [])"
            ".flatMap(c => c.outputArea ? c.outputArea.model.toJSON() : [])"
        )

    def problems(self) -> list[str]:
        """The errors among the outputs."""
        kind = "application/vnd.jupyter.error"
        return [str(o) for o in self.all_outputs() if o["output_type"] == "error" or kind in o.get("data", {})]

    def panel(self, selector: str = ".mlw-panel"):
        """The panel, once it is there."""
        found = self.notebook.locator(selector).first
        found.wait_for()
        return found

    def set(self, label: str, value: str, within=None) -> None:
        """Set the field of that label, as a person does: fill it, and leave it."""
        field = (within or self.panel()).get_by_label(label, exact=True)
        field.fill(value)
        field.blur()

    def press(self, name: str, within=None) -> None:
        (within or self.panel()).get_by_role("button", name=re.compile(f"^{name}", re.I)).click()

    def verdict(self, word: str, within=None, timeout_s: float = 60.0):
        """Wait until the panel's head says `word`."""
        chip = (within or self.panel()).locator(".mlw-head .mlw-chip", has_text=re.compile(f"^{word}$")).first
        chip.wait_for(timeout=1000 * timeout_s)
        return chip

    def hard_to_read(self, within, least: float = 4.5) -> list[list]:
        """Texts in an element whose contrast with their ground is below `least`; what is disabled is left out."""
        return [found for found in within.evaluate(CONTRASTS) if found[1] < least]

    def clipped(self, within) -> list[str]:
        """Classes of elements that are wider than the room they have, and do not scroll (a step's line may reach on)."""
        return within.evaluate(
            "root => [...root.querySelectorAll('*')].filter(e => !e.closest('svg, .mlw-step') && e.clientWidth"
            " && e.scrollWidth > e.clientWidth + 1 && !['auto', 'scroll'].includes(getComputedStyle(e).overflowX)"
            " && getComputedStyle(e).display !== 'inline').map(e => e.className || e.tagName)"
        )

    def shot(self, name: str, within=None) -> Path:
        """Save a picture of the window, or of one element."""
        path, size = self.shots / f"{name}.png", self.page.viewport_size
        if within is not None:  # a window high enough for all of it
            self.page.set_viewport_size({**size, "height": int(within.bounding_box()["height"]) + 300})
            within.scroll_into_view_if_needed()
        (within or self.page).screenshot(path=path)
        self.page.set_viewport_size(size)
        return path


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The JupyterLab server."""
    server = Lab(tmp_path_factory.mktemp("lab"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser(need):
    """Headless Chromium, for one file: Playwright keeps an event loop running that other files' tests would meet."""
    from playwright.sync_api import sync_playwright

    path = need("chromium", "Type: apt-get install chromium.")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def hard_to_read():
    """Gives the texts in an element whose contrast with their ground is too low; what is disabled is left out."""
    return lambda within, least=4.5: [found for found in within.evaluate(CONTRASTS) if found[1] < least]


@pytest.fixture
def shots(tmp_path) -> Path:
    """Where pictures go: the folder of SCREENSHOTS, or the test's own."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def open_lab(browser, lab, shots, tmp_path):
    """Open a notebook of the server in a window; the test fails when the page asked for anything from outside."""
    opened = []

    def open_notebook(path: str, width: int = 1440, height: int = 1000) -> LabPage:
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
        page = LabPage(context.new_page(), lab, shots)
        opened.append((context, page))
        return page.open(path)

    yield open_notebook
    for context, page in opened:
        page.page.screenshot(path=tmp_path / "last.png")
        print(page.page.url, page.problems(), page.said)  # shown by pytest when the test failed
        context.close()
        lab.end_kernels()
    foreign = [url for _, page in opened for url in page.foreign]
    assert not foreign, f"the page asked for what is not the server's own: {foreign}"
