"""The package opened, used and closed many times (fault A15: 1,000 with DSVK_TEST_LONG=1) leaves memory, threads and descriptors as
they were."""
import gc
import os
import threading
from pathlib import Path

import pytest

import dsvk

if not Path("/proc/self/status").exists():
    pytest.skip("reads /proc", allow_module_level=True)


def resident_bytes():
    line, = (line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


def test_A15_open_and_close(capsys):
    every = "DSVK_TEST_LONG" in os.environ
    times, settled = (1000, 100) if every else (2, 1)
    before, found = None, set()
    for i in range(1, times + 1):
        model = dsvk.Model("nano")
        session = model.session(context=256)
        if not every or i % 50 == 1:      # the driver readies its kernels for these
            session.sync([0, 40, 41, 42, 43, 44, 45, 46])
            found.add(tuple(session.decode(6)))
        if i % 2:      # the others are left to the interpreter
            session.close()
            model.close()
        del session, model
        if i == settled:
            gc.collect()
            before = resident_bytes(), len(os.listdir("/proc/self/fd")), threading.active_count()
    gc.collect()
    grown = resident_bytes() - before[0]
    assert len(found) == 1
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    assert files <= before[1] and threads <= before[2], (files, threads, before)      # fewer, where earlier tests' are only now let go of
    if every:
        with capsys.disabled():
            print(f"\n{times} lives in Python: resident memory {before[0] / 1e6:.1f} MB after {settled}, {grown / 1e6:+.3f} MB at the end")
        assert grown < (times - settled) * 32768
