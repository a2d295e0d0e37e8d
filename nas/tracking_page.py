"""A training as one HTML page of curves that opens anywhere, without a network.

It is written again and again while the training goes on, and reloads itself as long.
"""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.page_parts import script_json, write_page

Numbers = Mapping[str, float]

PAGE = Path(__file__).with_name("tracking_page.html")
MOST_POINTS = 600
"""Points of a curve; of a longer training each is the mean of several rows."""
RECENT_ROWS = 10
"""Rows that a card's loss and speed are the mean of."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """How far a training is.

    total_steps, seconds_left: None where unknown. steps, evaluations: the numbers of its rows,
    see `nas.tracking.flat_numbers`, in order; each has its `step`.
    """

    title: str
    steps: Sequence[Numbers]
    evaluations: Sequence[Numbers]
    total_steps: int | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class _Chart:
    """Some numbers by step. noisy: drawn smoothed, with what was smoothed behind it."""

    title: str
    names: tuple[str, ...]
    when_empty: str = "Not logged."
    logarithmic: bool = False
    noisy: bool = False
    tick_format: str = ""
    number_format: str = ".3g"


_LOSSES = ("loss", "classification", "quality", "box")
_CHARTS = (
    _Chart("Loss", _LOSSES, logarithmic=True, noisy=True),
    _Chart("Average precision", (), when_empty="No validation yet.", number_format=".3f"),
    _Chart("Learning rate", ("learning_rate",), tick_format="~g"),
    _Chart("Gradient norm, before clipping", ("gradient_norm",), logarithmic=True, noisy=True),
    _Chart("Images a second", ("images_per_second",), noisy=True),
    _Chart(
        "Time spent waiting for data",
        ("data_wait_share",),
        noisy=True,
        tick_format=".0%",
        number_format=".1%",
    ),
)


def write_tracking_page(
    path: Path,
    state: TrainingState,
    *,
    refresh_seconds: int | None,
    examples: Sequence[tuple[int, str]] = (),
) -> None:
    """Write the page, whole or not at all.

    refresh_seconds: after which it reloads itself; None once the training has ended.
    examples: (step, address relative to the page) of pictures, the newest first.
    """
    refresh = f'<meta http-equiv="refresh" content="{refresh_seconds}">' if refresh_seconds else ""
    parts = {
        "title": html.escape(state.title),
        "refresh": refresh,
        "state": _state(is_running=refresh_seconds is not None),
        "cards": "".join(_card(*card) for card in _cards(state)),
        "examples": _examples(examples),
        "figures": script_json(_figures(state)),
    }
    write_page(path, PAGE, parts)


def _state(*, is_running: bool) -> str:
    now = datetime.now(UTC)
    kind, word = ("state running", "Running") if is_running else ("state", "Ended")
    return (
        f'<p class="{kind}" data-written="{now.timestamp():.0f}"><i></i><b>{word}</b>'
        f"<span>written {now:%Y-%m-%d %H:%M:%S} UTC</span></p>"
    )


def _cards(state: TrainingState) -> Iterator[tuple[str, str, str, float | None]]:
    """(title, value, detail, share that is done) of each card that there are numbers for."""
    recent = state.steps[-RECENT_ROWS:]
    if recent:
        yield _progress_card(state)
    if (loss := _mean(recent, "loss")) is not None:
        yield "Loss", f"{loss:.4g}", f"mean of the last {len(recent)} rows", None
    if scored := [row for row in state.evaluations if "ap" in row]:
        best = max(scored, key=lambda row: row["ap"])
        detail = f"at step {_whole(best['step'])}, last {scored[-1]['ap']:.3f}"
        yield "Best AP", f"{best['ap']:.3f}", detail, None
    if speed := _mean(recent, "images_per_second"):
        waiting = _mean(recent, "data_wait_share")
        detail = "" if waiting is None else f"{waiting:.1%} of the time waiting for data"
        yield "Images a second", f"{speed:.4g}", detail, None
    if recent and (memory := recent[-1].get("peak_memory_bytes")):
        yield "Peak memory", f"{memory / 1e9:.2f} GB", "the most held so far", None


def _progress_card(state: TrainingState) -> tuple[str, str, str, float | None]:
    last, total = state.steps[-1], state.total_steps
    details = [f"epoch {last['epoch']:.1f}"] if "epoch" in last else []
    if total is not None:
        details.insert(0, f"of {_whole(total)}")
    if state.seconds_left is not None:
        details.append(f"{_duration(state.seconds_left)} left")
    share = None if total is None else min(1.0, last["step"] / total)
    return "Step", _whole(last["step"]), ", ".join(details), share


def _card(title: str, value: str, detail: str, done_share: float | None) -> str:
    bar = "" if done_share is None else f'<u><i style="width:{done_share:.1%}"></i></u>'
    return (
        f'<div class="card"><h3>{html.escape(title)}</h3><b>{html.escape(value)}</b>'
        f"<p>{html.escape(detail)}</p>{bar}</div>"
    )


def _examples(examples: Sequence[tuple[int, str]]) -> str:
    """The newest picture large, those before it small."""
    if not examples:
        return '<p class="quiet">No picture yet.</p>'
    newest, *older = (
        f'<figure><a href="{html.escape(address)}"><img src="{html.escape(address)}" '
        f'alt="predictions at step {step}"></a>'
        f"<figcaption>step {_whole(step)}</figcaption></figure>"
        for step, address in examples
    )
    return (
        '<p class="quiet">Green: found, with its score. Blue: the faces that are there.</p>'
        f'{newest}<div class="older">{"".join(older)}</div>'
    )


def _figures(state: TrainingState) -> list[dict[str, Any]]:
    """What the page's script draws."""
    figures = []
    for chart in _CHARTS:
        rows = state.steps if chart.names else state.evaluations
        names = chart.names or _precision_names(state.evaluations)
        lines = (_line(rows, name, chart.number_format) for name in names)
        figures.append(
            {
                "title": chart.title,
                "when_empty": chart.when_empty,
                "logarithmic": chart.logarithmic,
                "noisy": chart.noisy,
                "tick_format": chart.tick_format,
                "lines": [line for line in lines if _is_drawn(line["y"], chart)],
            }
        )
    return figures


def _is_drawn(values: Sequence[float | None], chart: _Chart) -> bool:
    """A part of the loss that a network does not have is always 0."""
    return any(values) if chart.logarithmic else any(value is not None for value in values)


def _precision_names(evaluations: Sequence[Numbers]) -> list[str]:
    """ap, then ap_tiny and whatever other subsets there are."""
    names = dict.fromkeys(name for row in evaluations for name in row)
    return [name for name in names if name == "ap" or name.startswith("ap_")]


def _line(rows: Sequence[Numbers], name: str, number_format: str) -> dict[str, Any]:
    """One curve of at most MOST_POINTS points, and its last value in words."""
    size = max(1, math.ceil(len(rows) / MOST_POINTS))
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    y = [_mean(group, name) for group in groups]
    last = next((value for value in reversed(y) if value is not None), 0.0)
    return {
        "name": name.removeprefix("ap_").replace("_", " "),
        "x": [group[-1]["step"] for group in groups],
        "y": y,
        "last": format(last, number_format),
    }


def _mean(rows: Sequence[Numbers], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else None


def _whole(number: float) -> str:
    return f"{number:,.0f}".replace(",", "\u202f")


def _duration(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
