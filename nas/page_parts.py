"""What the HTML pages share: how they are written, and how values stand in them."""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from data.files import write_text

STYLE = Path(__file__).with_name("page_style.css")


def write_page(path: Path, template: Path, parts: Mapping[str, str]) -> None:
    """Write a page that opens without a network, whole or not at all.

    Each @name@ in the template gives way to the part of that name; @style@ and @plotly@, the
    style of all pages and plotly.js, are put in here.
    """
    shared = {"style": STYLE.read_text(encoding="utf-8"), "plotly": get_plotlyjs()}
    whole = {**parts, **shared}
    text = template.read_text(encoding="utf-8")
    # One pass over the template: what a part says is never taken for a mark.
    write_text(path, re.sub("@([a-z]+)@", lambda mark: whole[mark[1]], text))


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def facts_html(facts: Mapping[str, Any], when_empty: str) -> str:
    """Names and values, nested ones flattened with a dot; the sentence where there are none."""
    rows = _flattened(facts, "")
    if not rows:
        return f'<p class="quiet">{html.escape(when_empty)}</p>'
    cells = "".join(
        f"<dt>{html.escape(name.replace('_', ' '))}</dt><dd>{html.escape(value)}</dd>"
        for name, value in rows
    )
    return f"<dl>{cells}</dl>"


def _flattened(facts: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            rows += _flattened(value, f"{prefix}{name} · ")
        else:
            rows.append((f"{prefix}{name}", value_text(value)))
    return rows


def value_text(value: Any) -> str:
    """A value in words, not escaped: a dash for None, lists with commas."""
    if value is None:
        return "\u2013"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(value)
    if isinstance(value, list | tuple):
        return ", ".join(value_text(one) for one in value)
    return str(value)


def number_text(value: float) -> str:
    """Whole numbers with thousands apart, others with about four digits."""
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:,.1f}".replace(",", "\u202f") if abs(value) >= 100 else f"{value:.4g}"
