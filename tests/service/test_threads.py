"""One thread a process, whatever the environment says."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.service.test_dev import environment

PROGRAM = """
import json, numpy, torch, threadpoolctl
from service.runtime.threads import one_thread
def now():
    return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpoolctl.threadpool_info())]
before = now()
one_thread()
print(json.dumps([before, now()]))
"""


def test_torch_and_numpy_are_held_to_one_thread() -> None:
    many = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment() | many, capture_output=True, text=True, check=True
    )
    before, after = json.loads(done.stdout)
    assert max(before) == 2 and len(after) > 1
    assert set(after) == {1}
