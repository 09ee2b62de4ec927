"""The log of a device: lines worth telling that are no failure of a call, in the thread whose call it is (faults A16, D15, D16)."""
import gc
import sys
import threading
import weakref

import pytest

import dsvk

np = pytest.importorskip("numpy", reason="makes arrays")


def use(device):
    """Compiles one kernel, which the device has to remember when it closes."""
    return dsvk.ops.rms_norm(dsvk.Tensor(np.ones((1, 32), "f4"), device), np.ones(32, "f4"))


@pytest.fixture
def nowhere(tmp_path):
    """A cache folder that cannot be made: a file lies in its way."""
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    return tmp_path / "file" / "cache"


def test_D15_a_damaged_cache_is_told(tmp_path):
    with dsvk.Device(cache_dir=tmp_path, log=pytest.fail) as device:
        use(device)
    kept, = tmp_path.glob("pipelines-*")
    kept.write_bytes(b"damaged")
    lines = []
    with dsvk.Device(cache_dir=tmp_path, log=lines.append):
        assert len(lines) == 1 and lines[0].startswith(f"{kept} is damaged"), lines


@pytest.mark.parametrize("ends", ["closed", "collected", "closed on another thread", "model last"])
def test_D16_told_when_a_device_ends(nowhere, ends):
    lines = []
    device = dsvk.Device(cache_dir=nowhere, log=lambda line: lines.append((line, threading.get_ident())))
    tensor = use(device)
    if ends != "model last":
        tensor.close()
    assert not lines
    thread = threading.get_ident()
    if ends == "closed on another thread":
        other = threading.Thread(target=device.close)
        other.start()
        thread = other.ident
        other.join()
    elif ends == "collected":
        del device, tensor
        gc.collect()
    else:
        device.close()
    if ends == "model last":    # what was made on a device keeps it
        assert not lines
        tensor.close()
    assert len(lines) == 1 and lines[0][1] == thread, lines
    assert lines[0][0].startswith(str(nowhere)) and "cannot be written" in lines[0][0]


def test_A16_calls_from_inside(nowhere):
    said = []

    def listen(line):
        for call in (device.close, device.memory):
            with pytest.raises(dsvk.Error) as caught:
                call()
            said.append(caught.value.status)

    device = dsvk.Device(cache_dir=nowhere, log=listen)
    use(device).close()
    gc.collect()
    device.close()
    assert said == ["BUSY", "STATE"]


def test_what_a_log_raises_stops_nothing(nowhere, monkeypatch):
    raised = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: raised.append(repr(args.exc_value)))

    def listen(line):
        raise ValueError("no paper")

    with dsvk.Device(cache_dir=nowhere, log=listen) as device:
        use(device)
        gc.collect()
    assert raised == ["ValueError('no paper')"]


def test_A07_a_log_is_callable():
    with pytest.raises(TypeError, match=r"log: expected a callable \(line\) or None, got 'stderr'"):
        dsvk.Device(log="stderr")


def test_a_log_that_holds_its_device_is_collected():
    class Told(dsvk.Device):
        def __init__(self):
            super().__init__(cache_dir="", log=self.listen)

        def listen(self, line):
            pass

    gone = weakref.ref(Told())
    gc.collect()
    assert gone() is None
