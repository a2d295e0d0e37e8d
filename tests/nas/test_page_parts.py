"""A page is its template with every mark filled once, and its values read well."""

import re
from pathlib import Path

import pytest

from nas import evaluation_page, report, tracking_page
from nas.page_parts import (
    STYLE,
    facts_html,
    number_text,
    script_json,
    value_text,
    write_page,
)

TEMPLATES = (evaluation_page.PAGE, report.PAGE, tracking_page.PAGE)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_every_page_has_the_shared_style_before_its_own(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    assert text.count("<style>\n@style@\n") == text.count("<style>") == 1


def test_no_rule_of_the_shared_style_is_written_again() -> None:
    rules = set(re.findall(r"^[^\s/@}].*}$", STYLE.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(rules) > 10
    for template in TEMPLATES:
        assert not rules & set(template.read_text(encoding="utf-8").splitlines()), template.name


def test_the_style_needs_no_network() -> None:
    assert not re.search(r"url\(|@import|//", STYLE.read_text(encoding="utf-8"))


def test_what_a_part_says_is_never_taken_for_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.page_parts.get_plotlyjs", lambda: "the plot")
    template = tmp_path / "template.html"
    template.write_text("@one@, @plotly@, a@b.org, @media", encoding="utf-8")
    write_page(tmp_path / "page.html", template, {"one": "@plotly@ @other@"})
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page == "@plotly@ @other@, the plot, a@b.org, @media"


def test_a_mark_without_a_part_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "template.html"
    template.write_text("@missing@", encoding="utf-8")
    with pytest.raises(KeyError, match="missing"):
        write_page(tmp_path / "page.html", template, {})
    assert not (tmp_path / "page.html").exists()


def test_json_cannot_end_its_element() -> None:
    assert script_json(["</script>"]) == '["\\u003c/script>"]'
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_values_in_words() -> None:
    assert [number_text(value) for value in (1234567, 1234.56, 0.123456)] == [
        "1\u202f234\u202f567",
        "1\u202f234.6",
        "0.1235",
    ]
    assert value_text([None, True, 1.5, "x"]) == "\u2013, True, 1.5, x"


def test_facts_are_flattened_and_escaped() -> None:
    facts = {"a_b": {"c": "<1>"}}
    assert facts_html(facts, "") == "<dl><dt>a b · c</dt><dd>&lt;1&gt;</dd></dl>"
    assert facts_html({}, "No <facts>.") == '<p class="quiet">No &lt;facts&gt;.</p>'
