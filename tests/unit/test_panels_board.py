"""The board driven without a browser: rows, verbs, questions, and a look that goes wrong."""

import threading
import time
from functools import partial

import pytest

from mlworkbench.core.errors import MissingPart, problem
from mlworkbench.core.evidence import Evidence
from mlworkbench.panels.board import Board, Row, Verb

HOSTILE = "<img src=x onerror=alert(1)>"


class Place:
    """Things that run, as a board sees them."""

    def __init__(self):
        self.states, self.looks, self.broken, self.may_stop = {"churn": "running"}, 0, None, threading.Event()
        self.may_stop.set()

    def rows(self):
        self.looks += 1
        if self.broken:
            raise self.broken
        return [Row(name, state, "good" if state == "running" else "plain", {"URL": "http://127.0.0.1:1", "by": HOSTILE}, HOSTILE,
                    self.verbs(name, state)) for name, state in self.states.items()]

    def verbs(self, name, state):
        idle = "It does not run." if state == "stopped" else ""
        return (Verb("Logs", lambda: [Evidence("Last", text=HOSTILE)]), Verb("Break", self.fail),
                Verb("Stop", partial(self.stop, name), "Stop it?", why_not=idle))

    def stop(self, name):
        assert self.may_stop.wait(10)
        self.states[name] = "stopped"
        return f"{name} was stopped."

    def fail(self):
        raise MissingPart(problem("logs", "the engine must answer", HOSTILE))


@pytest.fixture
def place():
    return Place()


@pytest.fixture
def looking():
    """Whether a board of this test looks by itself: those that other tests of this process left open count for nothing."""
    others = set(threading.enumerate())
    return lambda: any(thread.name == "board" and thread not in others for thread in threading.enumerate())


@pytest.fixture
def board(place, looking):
    made = Board(place.rows, title="Services", empty="Nothing runs.", period_s=600)
    assert made.view and until(lambda: made.rows or made.message)
    yield made
    made.close()
    assert until(lambda: not looking())


def until(true, timeout_s=10):
    end = time.monotonic() + timeout_s
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def test_a_row_shows_name_state_facts_and_note_as_text_and_an_address_as_a_link(board):
    shown = board["churn"].head.value
    assert "mlw-passed'>running<" in shown and "href='http://127.0.0.1:1'" in shown
    assert HOSTILE not in shown and shown.count("&lt;img") == 2


def test_what_a_verb_finds_is_shown_below_its_row_until_it_is_closed(board):
    row = board["churn"]
    row.buttons["Logs"].click()
    assert row.wait(10) and row.message == "" and row.result[0].text == HOSTILE
    assert "&lt;img" in row.said.value and row.outcome.layout.display is None
    row.close.click()
    assert row.said.value == "" and row.outcome.layout.display == "none"


def test_a_verb_that_fails_says_why_in_words(board):
    row = board["churn"]
    row.buttons["Break"].click()
    assert row.wait(10) and row.result is None
    assert row.message.startswith("logs: the engine must answer") and HOSTILE not in row.said.value


def test_what_ends_something_asks_first_and_no_answer_means_no(board, place):
    row = board["churn"]
    row.buttons["Stop"].click()
    assert row.question.text == "Stop it?" and row.job is None
    row.question.no.click()
    assert row.question.text == "" and row.go_on() is None and place.states["churn"] == "running"
    row.buttons["Stop"].click()
    row.question.yes.click()
    assert row.wait(10) and row.result == "churn was stopped."
    assert until(lambda: board.found[0].state == "stopped" and row.buttons["Stop"].disabled)
    assert board["churn"] is row and "It does not run." in row.buttons["Stop"].tooltip and row.press("Stop") is None


def test_while_a_verb_works_the_row_takes_no_other_and_keeps_its_buttons(board, place):
    row, buttons = board["churn"], board["churn"].verbs.children
    place.may_stop.clear()
    row.press("Stop")
    job = row.go_on()
    assert row.busy and row.press("Logs") is None and row.buttons["Logs"].disabled and row.go_on() is None
    place.may_stop.set()
    assert job.wait(10) and row.wait(10) and until(lambda: board.found[0].state == "stopped")
    assert row.verbs.children == buttons and not row.buttons["Logs"].disabled


def test_a_look_that_fails_is_told_and_the_rows_stay(board, place):
    place.broken = MissingPart(problem("docker", "the engine must answer", HOSTILE))
    board.view.again.click()
    assert board.wait(10) and "the engine must answer" in board.message
    assert HOSTILE not in board.view.notice.value and "&lt;img" in board.view.notice.value and list(board.rows) == ["churn"]
    place.broken = None
    board.refresh()
    assert board.wait(10) and board.message == "" and board.view.notice.layout.display == "none"


def test_one_look_at_a_time_and_rows_come_and_go(board, place):
    before, most, now, look = place.looks, [], [], place.rows

    def watched():
        now.append(1)
        most.append(len(now))
        time.sleep(0.01)
        found = look()
        now.pop()
        return found

    board._source = watched
    for _ in range(20):
        board.refresh()
    place.states = {"price": "running"}
    board.refresh()
    assert board.wait(10) and set(most) == {1} and place.looks - before <= 3
    assert list(board.rows) == ["price"]
    place.states = {}
    board.refresh()
    assert board.wait(10) and "Nothing runs." in board.view.notice.value


def test_it_looks_again_by_itself_until_it_is_closed_or_another_is_shown(looking):
    first, second = Place(), Place()
    boards = [Board(place.rows, title="Two", empty="", period_s=0.01) for place in (first, second)]
    assert boards[0].view and until(lambda: first.looks > 2)
    assert boards[1].view and until(lambda: second.looks > 2)
    former = first.looks + 1  # one may be under way
    boards[1].view.widget.close()
    assert until(lambda: not looking())
    assert first.looks <= former


def test_headless_it_is_a_table_looked_at_once_without_a_widget_or_a_thread(place, monkeypatch, looking):
    monkeypatch.setenv("MLWORKBENCH_HEADLESS", "1")
    board = Board(place.rows, title="Services", empty="Nothing runs.")
    bundle = board._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"} and "view" not in vars(board) and place.looks == 1
    assert "<td>churn</td>" in bundle["text/html"] and HOSTILE not in bundle["text/html"]
    assert bundle["text/plain"] == "Board('Services', churn: running)"
    assert not looking()
