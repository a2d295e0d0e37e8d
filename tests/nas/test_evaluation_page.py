"""The page is whole, stands alone and says what it was given."""

from pathlib import Path
from typing import Any

import pytest

from nas.evaluation_page import write_evaluation_page
from tests.nas.test_report import Balanced, script_data

FEW, MANY, BEST = "0.1 false an image", "1 false an image", "best F1"


def point(name: str, precision: float | None = 0.5) -> dict[str, Any]:
    return {
        "name": name,
        "score": 0.25,
        "precision": precision,
        "recall": 0.5,
        "false_per_image": 0.1,
    }
