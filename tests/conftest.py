"""Shared fixtures: where the real images are, when they are there."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

WIDER_ROOT = Path(__file__).parents[2] / "shared" / "widerface"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` run where CUDA is, tests marked `real` where the images are."""
    reasons = {
        "real": None if WIDER_ROOT.is_dir() else f"no real images at {WIDER_ROOT}",
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
    }
    for item in items:
        for mark, reason in reasons.items():
            if reason is not None and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _same_weights_in_any_order() -> None:
    """Weights that a test draws do not depend on the tests before it in its process."""
    torch.manual_seed(0)


@pytest.fixture
def wider_root() -> Path:
    """The folder of real WIDER FACE images; use it in tests marked `real`."""
    return WIDER_ROOT
