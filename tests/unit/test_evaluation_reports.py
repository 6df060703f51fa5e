"""JUnit XML, Markdown and the model card: what they hold, and that nothing from data breaks them."""

import html
import re
from dataclasses import fields, replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt

from mlworkbench.core.evidence import Evidence
from mlworkbench.core.results import Result
from mlworkbench.evaluation.card import TOLD, UNKNOWN, card_head, card_sections, render_card
from mlworkbench.evaluation.reports import MOST_CHARACTERS, code_span, escape_markdown, junit_xml, markdown, markdown_table
from mlworkbench.evaluation.result import Evaluation
from mlworkbench.evaluation.sections import Section
from mlworkbench.statistics.profiles import profile_frame

HOSTILE = [
    "a | b", "a \\| b", "*bold* _it_ __x__", "`code`", "``two`` ticks", "<script>alert(1)</script>", "<!-- hidden",
    "</details>", "line\nbreak", "[link](http://x.y)", "![i](http://x.y/z.png)", "@somebody", "#12", "~~gone~~", "$x^2$",
    "größe 日本", "", " ", "\\", "1. list", "- list", "# title",
    "&amp; &lt;", "http://x.y/z", "]]>", "\x00\x0b\x1f", "\t tab", "a\\", "|", "`", "```",
]


def evaluation(**changes):
    metrics = pd.DataFrame({"metric": ["roc_auc", "accuracy", "log_loss"], "value": [0.83, 0.8, np.nan],
                            "low": [0.8, 0.78, np.nan], "high": [0.86, 0.82, np.nan], "baseline": [0.5, 0.6, 0.69]})
    gate = pd.DataFrame({"expression": ["roc_auc >= 0.8", 'slice("a|b").accuracy.gap <= 0.05'], "value": [0.83, 0.1],
                         "holds": [True, False], "margin": [0.03, -0.05]})
    values = dict(
        name="churn", task="binary", rows=1200, metrics=metrics, gate=gate, classes=("no", "yes"), positive="yes",
        prediction_profile=profile_frame(pd.DataFrame({"prediction": [0.0]})), status="failed",
        reasons=('slice("a|b").accuracy.gap <= 0.05 does not hold: it is 0.1, off by 0.05.',), concerns=("Look | here.",),
        model_type="sklearn.pipeline.Pipeline", model_sha256="ab" * 32, data_sha256="cd" * 32,
        sections=(Section("slices", evidence=(Evidence("Weakest segments", table=pd.DataFrame({"segment": ["x"]})),)),),
    )
    return Evaluation(**values | changes)


def printable(text):
    return re.sub("[\x00\x0b\x1f]", "\ufffd", text)


def suite_of(text):
    return ElementTree.fromstring(text.encode("utf-8")).find("testsuite")


# --- JUnit XML ---


def test_each_expression_of_the_gate_is_a_test_case():
    suite = suite_of(junit_xml(evaluation()))
    assert suite.attrib == {"name": "evaluate churn", "tests": "2", "failures": "1", "errors": "0", "skipped": "0"}
    passed, failed = suite.findall("testcase")
    assert passed.attrib["name"] == "roc_auc >= 0.8" and passed.find("failure") is None
    assert failed.find("failure").attrib["message"] == evaluation().reasons[0]
    assert {p.attrib["name"]: p.attrib["value"] for p in suite.find("properties")} == {"roc_auc": "0.83", "accuracy": "0.8"}
    assert "Look | here." in suite.find("system-out").text


@pytest.mark.parametrize(("status", "counts"), [
    ("passed", ("1", "0", "0", "0")), ("failed", ("1", "1", "0", "0")), ("skipped", ("1", "0", "0", "1")),
    ("error", ("1", "0", "1", "0")),
])
def test_without_a_gate_the_verdict_is_the_test_case(status, counts):
    suite = suite_of(junit_xml(Result(name="x", status=status, reasons=("no engine here",))))
    assert tuple(suite.attrib[k] for k in ("tests", "failures", "errors", "skipped")) == counts
    told = suite.find("testcase")
    assert told.attrib["name"] == "verdict"
    word = {"failed": "failure", "skipped": "skipped", "error": "error"}.get(status)
    assert word is None or told.find(word).attrib["message"] == "no engine here"


def test_a_failure_beyond_the_gate_is_a_test_case_too():
    gate = evaluation().gate.assign(holds=True)
    suite = suite_of(junit_xml(evaluation(gate=gate, reasons=("Something else.",))))
    assert suite.attrib["failures"] == "1" and suite.findall("testcase")[-1].attrib["name"] == "verdict"


def test_times_are_only_told_when_given():
    assert "time=" not in junit_xml(evaluation()) and junit_xml(evaluation()) == junit_xml(evaluation())
    assert suite_of(junit_xml(evaluation(), seconds=1.23456)).attrib["time"] == "1.235"


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_fits_into_xml(name):
    gate = evaluation().gate.assign(expression=[f"f({name}) >= 1", "roc_auc >= 0"])
    suite = suite_of(junit_xml(evaluation(name=name, gate=gate, concerns=(name,), reasons=(name,))))
    shown = suite.find("testcase").attrib["name"]
    assert shown == f"f({printable(name)}) >= 1"


# --- Markdown ---


def rendered(text):
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


def visible(fragment):
    return html.unescape(re.sub(r"<[^>]+>", "", fragment)).replace("\u2060", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_shows_as_it_is(text):
    page = rendered("x " + escape_markdown(text) + " y")
    wanted = " ".join(f"x {printable(text)} y".split())
    assert " ".join(visible(page).split()) == wanted
    assert not re.search(r"<(?!/?p>)", page)


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_keeps_its_cell(text):
    frame = pd.DataFrame({"expression": [text], text or "blank": [text], "n": [3]})
    page = rendered(markdown_table(frame))
    assert page.count("<td") == 3 and page.count("<th") >= 3
    assert "<script" not in page and "<a " not in page and "<img" not in page


def test_a_code_span_holds_its_text_in_a_table():
    page = rendered(markdown_table(pd.DataFrame({"expression": ['slice("a|b <x>").f1 >= 0']})))
    assert "<code>slice(&quot;a|b &lt;x&gt;&quot;).f1 &gt;= 0</code>" in page
    assert code_span("a`b") == "``a`b``" and code_span("`") == "`` ` ``"


def test_the_page_has_verdict_reasons_concerns_tables_and_folds():
    chapter = Evidence("Weak segments", table=pd.DataFrame({"segment": ["a"]}), chapter="Where <it> is weaker")

    class Shown(Evaluation):
        def evidence(self):
            return [Evidence("Gate", table=self.gate), chapter, Evidence("Figure", svg="<svg></svg>"),
                    Evidence("Words", text="some ``` text", note="a *note*")]

    found = evaluation()
    told = markdown(Shown(**{f.name: getattr(found, f.name) for f in fields(found)}))
    page = rendered(told)
    assert told.startswith("## ❌ Evaluate: churn\n") and "off by 0.05" in told and "**Worth a look**" in told
    assert "<summary>Where &lt;it&gt; is weaker</summary>" in told and "svg" not in told
    assert "a *note*" in visible(page) and "some ``` text" in page
    assert told.count("<details>") == told.count("</details>") == 1


def test_a_page_too_long_for_a_comment_leaves_chapters_out_and_says_so():
    class Long(Result):
        def evidence(self):
            table = pd.DataFrame({"words": ["x" * 500] * 50})
            return [Evidence("T", table=table, chapter=f"chapter {i}") for i in range(5)]

    told = markdown(Long(name="n"))
    assert len(told) < MOST_CHARACTERS + 500 and "Left out, to fit: chapter 2, chapter 3, chapter 4" in told


def test_long_tables_are_cut_and_say_so():
    assert "50 of 1,000 rows" in markdown_table(pd.DataFrame({"a": range(1000)}))


def test_equal_results_give_equal_text():
    assert markdown(evaluation()) == markdown(evaluation()) and render_card(evaluation()) == render_card(evaluation())


# --- the model card ---


def test_the_head_is_yaml_that_programs_read():
    text = render_card(evaluation())
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == card_head(evaluation())
    assert (head["library_name"], head["pipeline_tag"]) == ("sklearn", "tabular-classification")
    result = head["model-index"][0]["results"][0]
    assert [m["type"] for m in result["metrics"]] == ["roc_auc", "accuracy"]  # log loss is not known, and left out
    assert set(result) == {"task", "dataset", "metrics"} and set(result["dataset"]) == {"type", "name"}


@pytest.mark.parametrize(("kind", "task", "library"), [
    ("xgboost.core.Booster", "regression", "xgboost"), ("torch.nn.Module", "binary", "pytorch"),
    ("builtins.function", "cluster", None),
])
def test_any_family_and_task_has_a_card(kind, task, library):
    found = evaluation(model_type=kind, task=task, classes=None, positive=None)
    assert card_head(found).get("library_name") == library and render_card(found).startswith("---\n")


def test_the_card_holds_what_was_found_and_leaves_the_rest_to_a_person():
    text = render_card(evaluation(threshold={"positive": "yes", "value": 0.35}))
    for words in ("# Model description", "Look \\| here.", "### Weakest segments", "### Gate", "roc auc", "0.35", "ab" * 32):
        assert words in text
    assert text.count(UNKNOWN) == 5


def test_the_card_is_read_by_skops_sections():
    sections = card_sections(evaluation())
    assert all(title.split("/")[0] in {"Model description", "How to Get Started with the Model", "Model Card Authors",
                                       "Model Card Contact", "Citation"} for title in sections)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_fits_into_a_card(name):
    text = render_card(evaluation(name=name, concerns=(name,), classes=(name, "b"), positive=name))
    head = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert head["model-index"][0]["name"] == name
    page = rendered(text.split("-->", 1)[1])
    assert "<script" not in page and "<img" not in page and "<a " not in page
    code = re.search(r"```python\n(.*?)\n```", text, re.S)[1] if "```" not in name else None
    assert code is None or compile(code, "card", "exec")


def test_every_analysis_with_tables_has_a_place_in_the_card():
    from mlworkbench.evaluation.result import CHAPTERS

    assert set(CHAPTERS) <= {*TOLD, "latency"}


def test_a_card_is_whole_without_gate_concerns_and_intervals():
    bare = replace(evaluation(), gate=evaluation().gate.iloc[:0], concerns=(), resamples=0, sections=(), status="passed")
    text = render_card(bare)
    assert "The evaluation raised no concern." in text and "| low |" not in text and "### Gate" not in text
