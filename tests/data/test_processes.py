import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.processes import ProcessPool

ROOT = Path(__file__).parents[2]

DRIVER = """
import os, time
from data.processes import ProcessPool

if __name__ == "__main__":
    pool = ProcessPool(1, os.umask, (0o22,))
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until_gone(process: int) -> bool:
    deadline = time.monotonic() + 10
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(process)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads Linux's /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_their_driver_is_killed(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as driver:
        assert driver.stdout is not None
        worker = int(driver.stdout.readline())
        assert is_running(worker)
        driver.send_signal(how)
        driver.wait()
    assert wait_until_gone(worker)


def test_a_worker_is_set_up_before_its_first_job() -> None:
    with ProcessPool(1, os.umask, (0o27,)) as pool:
        assert pool.submit(os.umask, 0).result() == 0o27


def test_an_abandoned_pool_ends_its_workers() -> None:
    pool = ProcessPool(1, os.umask, (0o22,))
    worker = pool.submit(os.getpid).result()
    pool.abandon()
    assert wait_until_gone(worker)
    pool.shutdown()
