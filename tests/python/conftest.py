"""What the Python tests share: one device, and the model that comes with the package."""
import os
import signal
import subprocess
import sys

import pytest

import dsvk


@pytest.fixture(scope="session")
def device():
    with dsvk.Device() as device:
        yield device


@pytest.fixture(scope="session")
def nano(device):
    with dsvk.Model("nano", device=device) as model:
        yield model


@pytest.fixture
def session(nano):
    with nano.session() as session:
        yield session


@pytest.fixture
def python():
    """python(code, **environment) runs code in a fresh interpreter -> CompletedProcess with text."""
    def run(code, timeout=600, **environment):
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout,
                              env={**os.environ, **environment})
    return run


@pytest.fixture(autouse=True, scope="session")
def control_c():
    """A shell that starts the tests in the background lets SIGINT be ignored, here and in every program started from here; the
    tests of Ctrl-C need Python's own handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
