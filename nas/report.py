"""The study as one HTML page that opens anywhere, without a network.

The page holds its data as JSON, one copy of plotly.js, and a short script that draws; colours
follow the reader's light or dark setting. Only plain values come in, so a report can be made
again from the files of a study.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.page_parts import facts_html, number_text, script_json, value_text, write_page
from nas.pareto import hypervolume, pareto_front

Row = Mapping[str, Any]

PAGE = Path(__file__).with_name("report_page.html")
COST_TITLES = {"macs": "MACs", "latency_ms": "latency, ms", "params": "parameters"}
UNITS = {
    "macs": "M MAC",
    "params": "K",
    "peak_bytes": "MB",
    "latency_ms": "ms",
    "file_bytes": "KB",
    "seconds": "s",
}
FACTORS = {"macs": 1e-6, "params": 1e-3, "peak_bytes": 1e-6, "file_bytes": 1e-3}
HIDDEN_COLUMNS = ("genotype",)


@dataclass(frozen=True, slots=True)
class ReportData:
    """What the page shows. A part that was not made is left empty and the page says so.

    trials: one row a finished trial: `trial`, `ap`, the cost and, where known, `key`, `params`,
        `macs`, `peak_bytes`.
    front: rows of front.json; cost: the column that was lowered, such as "macs".
    reference: highest cost and least precision of the hypervolume; None takes the trials' highest
        cost and 0.
    retrained: one row a retrained network, with `trial` and whatever was measured.
    benchmark: one row a measurement. stages: (name, seconds) in the order they ran.
    fidelity: `tau` and its `interval` (low, high), and whatever else was noted.
    settings, audit, record: names and values, shown as they are.
    """

    study: str
    trials: Sequence[Row]
    front: Sequence[Row]
    cost: str = "macs"
    reference: tuple[float, float] | None = None
    retrained: Sequence[Row] = ()
    benchmark: Sequence[Row] = ()
    stages: Sequence[tuple[str, float]] = ()
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, whole or not at all.

    Raises:
        ValueError: a trial or a row of the front lacks its number, precision or cost.
    """
    for kind, rows in (("trial", data.trials), ("front row", data.front)):
        for row in rows:
            if missing := [name for name in ("trial", "ap", data.cost) if name not in row]:
                raise ValueError(f"every {kind} must have {', '.join(missing)}, got {dict(row)}")
    parts = {
        "study": html.escape(data.study),
        "subtitle": html.escape(_subtitle(data)),
        "headline": _headline(data),
        "front": _table(data.front, "No trial has finished yet."),
        "retrained": _table(data.retrained, "No network was retrained."),
        "benchmark": _table(data.benchmark, "No network was benchmarked."),
        "stages": _stages(data.stages),
        "fidelity": _fidelity(data.fidelity),
        "audit": facts_html(data.audit, "No audit was noted."),
        "settings": facts_html(data.settings, "No settings were noted."),
        "record": facts_html(data.record, "No record was noted."),
        "figures": script_json(_figures(data)),
    }
    write_page(path, PAGE, parts)


def _subtitle(data: ReportData) -> str:
    """How much was tried, when and with which commit."""
    facts = [f"{len(data.trials)} trials", f"{len(data.front)} on the front"]
    if date := data.record.get("date"):
        facts.append(f"{date[:10]} {date[11:16]} UTC")
    if commit := data.record.get("commit"):
        facts.append(f"commit {commit[:10]}")
    return " · ".join(facts)


def _headline(data: ReportData) -> str:
    """Cards: the most precise and the cheapest network of the front, hypervolume, time."""
    cards = []
    if data.front:
        best = max(data.front, key=lambda row: row["ap"])
        cheapest = min(data.front, key=lambda row: row[data.cost])
        for title, row in (("Most precise", best), ("Cheapest on the front", cheapest)):
            detail = ", ".join(
                _with_unit(name, row[name]) + (" parameters" if name == "params" else "")
                for name in ("params", "macs", "latency_ms")
                if row.get(name) is not None
            )
            cards.append((title, f"AP {row['ap']:.3f}", f"trial {row['trial']}, {detail}"))
    if data.trials:
        area = _history(data)["hypervolume"][-1]
        cards.append(("Hypervolume", f"{100 * area:.1f} %", "of the box of cost times AP 1"))
    if data.fidelity.get("tau") is not None:
        cards.append(("Proxy fidelity", f"τ {data.fidelity['tau']:.2f}", "Kendall, proxy to alone"))
    if data.stages:
        seconds = sum(seconds for _, seconds in data.stages)
        cards.append(("Time", _duration(seconds), f"in {len(data.stages)} stages"))
    return "".join(
        f'<div class="card"><h3>{html.escape(title)}</h3><b>{html.escape(value)}</b>'
        f"<p>{html.escape(detail)}</p></div>"
        for title, value, detail in cards
    )


def _history(data: ReportData) -> dict[str, list[Any]]:
    """Trial numbers with the best precision and the share of hypervolume reached by then."""
    trials = sorted(data.trials, key=lambda row: row["trial"])
    points = [(float(row[data.cost]), float(row["ap"])) for row in trials]
    highest = max(cost for cost, _ in points)
    reference = data.reference or (highest, 0.0)
    box = reference[0] * (1 - reference[1])
    best: list[float] = []
    areas: list[float] = []
    front: list[tuple[float, float]] = []
    for point in points:
        candidates = [*front, point]
        front = [candidates[i] for i in pareto_front(candidates)]
        best.append(max(ap for _, ap in front))
        areas.append(hypervolume(front, reference=reference) / box if box > 0 else 0.0)
    return {"trial": [row["trial"] for row in trials], "best": best, "hypervolume": areas}


def _figures(data: ReportData) -> dict[str, Any]:
    """What the page's script draws."""
    retrained = {row["trial"] for row in data.retrained}
    in_front = {row["trial"] for row in data.front}

    def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
        return {
            "cost": [row[data.cost] for row in rows],
            "ap": [row["ap"] for row in rows],
            "trial": [row["trial"] for row in rows],
            "text": [_hover(row) for row in rows],
        }

    front = sorted(data.front, key=lambda row: row[data.cost])
    return {
        "cost_title": COST_TITLES.get(data.cost, data.cost),
        "trials": columns([row for row in data.trials if row["trial"] not in in_front]),
        "front": columns(front),
        "retrained": columns([row for row in front if row["trial"] in retrained]),
        "history": _history(data) if data.trials else None,
    }


def _hover(row: Row) -> str:
    lines = [f"<b>trial {row['trial']}</b>, AP {row['ap']:.3f}"]
    lines += [
        f"{name.replace('_', ' ')}: {_with_unit(name, row[name])}"
        for name in ("params", "macs", "peak_bytes", "latency_ms")
        if row.get(name) is not None
    ]
    parts = html.escape(str(row.get("key", ""))).replace("-", "-<br>").replace("_", "_\u200b")
    return "<br>".join([*lines, parts]) if parts else "<br>".join(lines)


def _table(rows: Sequence[Row], when_empty: str) -> str:
    """Rows as a table that a click on a column's head sorts; a key wraps, numbers align."""
    if not rows:
        return f'<p class="quiet">{html.escape(when_empty)}</p>'
    names = [n for n in dict.fromkeys(n for row in rows for n in row) if n not in HIDDEN_COLUMNS]
    names.sort(key=lambda name: name == "key")  # the long one last
    head = "".join(f"<th><button>{html.escape(_column_title(n))}</button></th>" for n in names)
    body = "".join(
        "<tr>" + "".join(_cell(name, row.get(name)) for name in names) + "</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _column_title(name: str) -> str:
    if name not in UNITS:
        return name.replace("_", " ")
    title = "time" if name == "seconds" else name.removesuffix("_ms").removesuffix("_bytes")
    return f"{title}, {UNITS[name]}"


def _cell(name: str, value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = "number" if is_number else "key" if name == "key" else "text"
    order = "" if value is None else html.escape(repr(value) if is_number else value_text(value))
    shown = number_text(value * FACTORS.get(name, 1)) if is_number else value_text(value)
    return f'<td class="{kind}" data-order="{order}">{html.escape(shown)}</td>'


def _stages(stages: Sequence[tuple[str, float]]) -> str:
    if not stages:
        return '<p class="quiet">No stage was timed.</p>'
    longest = max(seconds for _, seconds in stages) or 1.0
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd><span>{_duration(seconds)}</span>"
        f'<i style="width:{100 * seconds / longest:.1f}%"></i></dd>'
        for name, seconds in stages
    )
    return f'<dl class="bars">{rows}</dl>'


def _fidelity(fidelity: Mapping[str, Any]) -> str:
    """Kendall's tau on a line from -1 to 1 with its interval, then the other facts."""
    if fidelity.get("tau") is None:
        return '<p class="quiet">Rank fidelity was not measured.</p>'
    tau = float(fidelity["tau"])
    low, high = (float(end) for end in fidelity.get("interval", (tau, tau)))

    def percent(value: float) -> str:
        return f"{50 * (value + 1):.1f}%"

    width = f"{50 * (high - low):.1f}%"
    others = {name: fidelity[name] for name in fidelity if name not in ("tau", "interval")}
    return (
        f"<p>Kendall's τ between proxy order and stand-alone order is <b>{tau:.2f}</b>, "
        f"interval {low:.2f} to {high:.2f}.</p>"
        f'<div class="scale"><i style="left:{percent(low)};width:{width}"></i>'
        f'<u style="left:{percent(tau)}"></u></div>'
        '<div class="ticks"><span>&minus;1, reversed</span><span>0, no relation</span>'
        "<span>1, same order</span></div>" + (facts_html(others, "") if others else "")
    )


def _with_unit(name: str, value: float) -> str:
    return f"{number_text(value * FACTORS.get(name, 1.0))} {UNITS[name]}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
