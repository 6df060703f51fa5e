"""The service's own page in a real browser: it asks for the key, predicts, explains, and asks nobody but the service."""

import pytest
from handmade_bundle import Served, census_bundle

KEY = "a-key-for-the-page"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    with Served(census_bundle(home / "census", auth="on"), home=home, log=home / "log", MLW_API_KEY=KEY) as served:
        yield served


@pytest.fixture
def open_page(browser, served):
    """Open the page in a window of its own; the test fails when anything but the service was asked, or the console complains."""
    asked, said, contexts = [], [], []

    def look(scheme: str, width: int = 1100):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(served.url)
        return page

    yield look
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith((served.url, "data:"))] == []
    # the browser itself says in the console that a request was refused
    assert [text for text in said if "status of 401" not in text and "status of 400" not in text] == []


def unlock(page):
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("heading", name="Columns").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_person_predicts_and_explains_with_a_key(open_page, shots, hard_to_read, scheme):
    page = open_page(scheme)
    page.get_by_text("wants an API key").wait_for()
    assert page.get_by_role("heading", name="Columns").count() == 0
    page.screenshot(path=shots / f"page-locked-{scheme}.png")
    unlock(page)
    assert page.get_by_role("heading", level=1).inner_text() == "census" and page.title() == "census"
    page.get_by_role("button", name="Predict").click()
    page.get_by_text("Answer: 200").wait_for()
    assert '"predictions"' in page.locator("#answer").inner_text()
    page.get_by_role("button", name="Explain").click()
    page.get_by_text("Row 0: yes is").wait_for()
    page.get_by_text("Answer: 200").wait_for()
    assert page.locator("#shares .bar").count() >= 3
    page.screenshot(path=shots / f"page-{scheme}.png", full_page=True)
    assert hard_to_read(page.locator("body")) == []


def test_the_key_is_kept_nowhere(open_page):
    page = open_page("light")
    unlock(page)
    kept = page.evaluate("() => [document.cookie, localStorage.length, sessionStorage.length]")
    assert kept == ["", 0, 0] and KEY not in page.url and KEY not in page.content()
    page.reload()
    page.get_by_text("wants an API key").wait_for()


def test_a_wrong_key_and_a_wrong_row_are_said(open_page):
    page = open_page("light")
    page.get_by_label("API key").fill("not-the-key-of-anybody")
    page.get_by_role("button", name="Use it").click()
    page.get_by_text("is not known here").wait_for()
    unlock(page)
    page.get_by_label("Request").fill('{"rows": [{"age": "<img src=x onerror=alert(1)>"}]}')
    page.get_by_role("button", name="Predict").click()
    page.get_by_text("Answer: 400").wait_for()
    assert "<img" in page.locator("#answer").inner_text() and page.locator("img").count() == 0


def test_every_document_can_be_read_with_the_key(open_page):
    page = open_page("dark")
    unlock(page)
    for name, text in {"docs.json": '"openapi"', "signature": '"columns"', "model": '"files"', "metrics": "mlw_requests"}.items():
        page.get_by_role("button", name=name, exact=True).click()
        page.locator("#document", has_text=text).wait_for()


def test_nothing_is_cut_off_on_a_phone(open_page, shots):
    page = open_page("light", width=390)
    unlock(page)
    page.get_by_role("button", name="Explain").click()
    page.get_by_text("Row 0: yes is").wait_for()
    page.screenshot(path=shots / "page-phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
