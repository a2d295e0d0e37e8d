"""The study as one HTML page that opens anywhere, without a network.

The page holds its data as JSON, one copy of plotly.js, and a short script that draws; colours
follow the reader's light or dark setting. Only plain values come in, so a report can be made
again from the files of a study.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from nas.page_parts import facts_html, number_text, script_json, value_text, write_page

Row = Mapping[str, Any]

PAGE = Path(__file__).with_name("report_page.html")
SCORE_TITLES = {"ap": "AP"}
"""Names of scores that are not their own titles."""
COST_TITLES = {"macs": "MACs", "latency_ms": "latency, ms", "params": "parameters"}
UNITS = {
    "macs": "M MAC",
    "params": "K",
    "peak_bytes": "MB",
    "latency_ms": "ms",
    "measured_latency_ms": "ms",
    "file_bytes": "KB",
    "seconds": "s",
}
FACTORS = {"macs": 1e-6, "params": 1e-3, "peak_bytes": 1e-6, "file_bytes": 1e-3}
HIDDEN_COLUMNS = ("genotype", "onnx")
RETRAINED_AP = ("retrained_ap", "retrained_ap_interval")
MEASURED = ("latency_ms", "measured_latency_ms", "file_bytes")
"""Like RETRAINED_AP columns of the table of retrained networks, and of the front's only what was
lowered."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """What the page shows. A part that was not made is left empty and the page says so.

    trials: one row a finished trial: `trial`, `ap`, the cost and, where known, `key`, `params`,
        `macs`, `peak_bytes`.
    front: rows of front.json; cost: the column that was lowered, such as "macs", and raised the
        one of the trials that was raised.
    hypervolume: `measured`, the share of the `box` that was reached by each trial number on. Then
        either `why_not`, why there is no random search beside it, or `run` and `random`, each
        with `mean`, `low` and `high` by trial number, the `compared` trials, the number of random
        `searches`, `final` (`ratio` and `trials_to_random`) and the `surrogate` that guessed them
        (`tau`, `tau_interval`).
    retrained: one row a retrained network, with `trial` and whatever was measured.
    benchmark: one row a measurement. stages: (name, seconds) in the order they ran.
    fidelity: `tau` and its `interval` (low, high), and whatever else was noted.
    early_stopping: what it spared, in a sentence; None where it was not used. finals: what the
        front's AP is, in a sentence; None where it is the trials' own.
    latency_table: names and values; empty where the study has none, and nothing is said of it.
    settings, audit, record: names and values, shown as they are.
    """

    study: str
    trials: Sequence[Row]
    front: Sequence[Row]
    cost: str = "macs"
    raised: str = "ap"
    hypervolume: Mapping[str, Any] = field(default_factory=dict)
    retrained: Sequence[Row] = ()
    benchmark: Sequence[Row] = ()
    stages: Sequence[tuple[str, float]] = ()
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    early_stopping: str | None = None
    finals: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)
    latency_table: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, whole or not at all.

    Raises:
        ValueError: a trial or a row of the front lacks its number, precision, cost or score.
    """
    needed = ("trial", "ap", data.cost)
    for kind, rows, names in (
        ("trial", data.trials, (*needed, data.raised)),
        ("front row", data.front, needed),
    ):
        for row in rows:
            if missing := [name for name in names if name not in row]:
                raise ValueError(f"every {kind} must have {', '.join(missing)}, got {dict(row)}")
    parts = {
        "study": html.escape(data.study),
        "subtitle": html.escape(_subtitle(data)),
        "headline": _headline(data),
        "raised": html.escape(_score_title(data.raised)),
        "hypervolume": _hypervolume(data.hypervolume, _score_title(data.raised)),
        "front": _sentence(data.finals) + _front(data),
        "retrained": _table(data.retrained, "No network was retrained."),
        "benchmark": _table(data.benchmark, "No network was benchmarked."),
        "stages": _stages(data.stages),
        "fidelity": _fidelity(data.fidelity) + _sentence(data.early_stopping),
        "latency": _latency_section(data.latency_table),
        "audit": facts_html(data.audit, "No audit was noted."),
        "settings": facts_html(data.settings, "No settings were noted."),
        "record": facts_html(data.record, "No record was noted."),
        "figures": script_json(_figures(data)),
    }
    write_page(path, PAGE, parts)


def _subtitle(data: ReportData) -> str:
    """How much was tried, when and with which commit."""
    completed, begun = len(data.trials), data.hypervolume.get("trials", len(data.trials))
    trials = (
        f"{completed} trials"
        if completed == begun
        else f"{completed} of {begun} trials fitted to the end"
    )
    facts = [trials, f"{len(data.front)} on the front"]
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
    if data.hypervolume:
        cards.append(_hypervolume_card(data.hypervolume, _score_title(data.raised)))
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


def _history(data: ReportData) -> dict[str, Any]:
    """Trial numbers with the best score reached by then."""
    trials = sorted(data.trials, key=lambda row: row["trial"])
    best = list(accumulate((float(row[data.raised]) for row in trials), max))
    return {
        "trial": [row["trial"] for row in trials],
        "best": best,
        "title": _score_title(data.raised),
    }


def _hypervolume_card(found: Row, score: str) -> tuple[str, str, str]:
    """Beside random where that is known, else what was measured."""
    box = f"of the box of log cost times {score} 1"
    if "final" not in found:
        return "Hypervolume", f"{found['measured'][-1]:.2%}", box
    ratio, value = found["final"]["ratio"], f"{found['final']['run']:.2%}"
    if ratio is None:
        return "Hypervolume", value, box
    return "Hypervolume beside random's", f"{ratio:.2f} \u00d7", f"{value} {box}, guessed"


def _hypervolume(found: Row, score: str) -> str:
    """What the curves are, in words."""
    if not found:
        return '<p class="quiet">No trial has finished yet.</p>'
    box = found["box"]
    low, high = (_with_unit(box["cost"], box[end]) for end in ("least", "highest"))
    parts = [
        f"Share of the box from {low} to {high}, on a log scale, and from {score} 0 to 1, "
        "that the trials dominate."
    ]
    if "final" in found:
        parts += _random_sentences(found)
    else:
        parts.append(f"There is no curve of random search: {found['why_not']}.")
    return f'<p class="quiet">{html.escape(" ".join(parts))}</p>'


def _score_title(name: str) -> str:
    """What trials raise, for people."""
    return SCORE_TITLES.get(name, name)


def _random_sentences(found: Row) -> list[str]:
    final, surrogate = found["final"], found["surrogate"]
    tau, (low, high) = surrogate["tau"], surrogate["tau_interval"]
    needed = final["trials_to_random"]
    reached = f"needed {needed} of its trials to reach that" if needed else "never reached that"
    return [
        f"Random search was not trained. A Gaussian process learned from this run's trials and "
        f"guesses both curves: {found['searches']} random searches of {found['compared']} feasible "
        "architectures, every one trained to the end, as mean and 90 % band, and the mean of this "
        "run. The measured curve holds the luck of single fits too.",
        f"Each trial guessed from the others: Kendall's τ {tau:.2f} ({low:.2f} to {high:.2f})"
        + ("." if low > 0 else ", which may be chance: do not believe this comparison."),
        f"At the end this run has {final['run']:.2%} and random search {final['random']:.2%}; "
        f"this run {reached}.",
    ]


def _latency_section(table: Mapping[str, Any]) -> str:
    return f"<section><h2>Latency table</h2>{facts_html(table, '')}</section>" if table else ""


def _figures(data: ReportData) -> dict[str, Any]:
    """What the page's script draws."""
    retrained = {row["trial"] for row in data.retrained}
    has_finals = data.finals is not None
    drawn_as_front = set() if has_finals else {row["trial"] for row in data.front}

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
        "ap_title": "AP at IoU 0.5" if has_finals else "AP at IoU 0.5, proxy",
        "names": {
            "trials": "trials, short fits" if has_finals else "trials",
            "front": "front, after the finals" if has_finals else "front",
        },
        "trials": columns([row for row in data.trials if row["trial"] not in drawn_as_front]),
        "front": columns(front),
        "retrained": columns([row for row in front if row["trial"] in retrained]),
        "history": _history(data) if data.trials else None,
        "hypervolume": {name: data.hypervolume.get(name) for name in ("measured", "run", "random")},
    }


def _hover(row: Row) -> str:
    lines = [f"<b>trial {row['trial']}</b>, AP {row['ap']:.3f}"]
    lines += [
        f"{name.replace('_', ' ')}: {_with_unit(name, row[name])}"
        for name in ("params", "macs", "peak_bytes", "latency_ms", "measured_latency_ms")
        if row.get(name) is not None
    ]
    parts = html.escape(str(row.get("key", ""))).replace("-", "-<br>").replace("_", "_\u200b")
    return "<br>".join([*lines, parts]) if parts else "<br>".join(lines)


def _front(data: ReportData) -> str:
    elsewhere = {*RETRAINED_AP, *MEASURED} - {data.cost}
    rows = [{name: row[name] for name in row if name not in elsewhere} for row in data.front]
    return _table(rows, "No trial has finished yet.")


def _table(rows: Sequence[Row], when_empty: str) -> str:
    """Rows as a table that a click on a column's head sorts; keys, which are long, come last."""
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
    return f"{title.replace('_', ' ')}, {UNITS[name]}"


def _cell(name: str, value: Any) -> str:
    if name.endswith("interval") and value is not None:
        low, high = value
        return f'<td class="number" data-order="{low!r}">{low:.3f} to {high:.3f}</td>'
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


def _sentence(text: str | None) -> str:
    return "" if text is None else f"<p>{html.escape(text[0].upper() + text[1:])}.</p>"


def _with_unit(name: str, value: float) -> str:
    return f"{number_text(value * FACTORS.get(name, 1.0))} {UNITS[name]}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
