"""Memory does not grow with the number of samples."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUN = """
import sys, torch
from certify import Examples, Model, certify
from certify.spec import parse_spec
from tests.support.onnx_models import small_cnn
from tests.support.runs import run_for
torch.set_num_threads(1)
model = Model.from_onnx(small_cnn(mean=0.5, size=8, channels=1))
spec = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": 0.25, "n": int(sys.argv[1]), "sampling": "fixed"}]})
examples = Examples((0,), torch.full((1, 1, 8, 8), 0.5), torch.tensor([0]))
[certificate] = certify(model, examples, spec, run_for(spec, model, 1, batch_size=1024))
assert sum(certificate.evidence.counts) == int(sys.argv[1])
print(int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))))
"""


def peak(samples: int) -> int:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", RUN, str(samples)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc: that of getrusage starts at the parent's size")
def test_a_hundred_times_the_samples_need_no_more_memory() -> None:
    assert peak(1_000_000) <= 1.1 * peak(10_000)
