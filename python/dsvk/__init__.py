"""DeepSeek-V4 inference on any Vulkan device.

    import dsvk
    model = dsvk.Model("nano")                       # or a folder in the published safetensors layout
    print(model.generate("ROMEO:", max_tokens=100))

    with model.session() as session:                 # the layer below: tokens and logits
        session.sync(model.tokenizer.encode("To be, or"))
        print(session.logits().shape, session.decode(20))

Importing needs no Vulkan driver. Every failure raises a dsvk.Error whose class also is the built-in one would expect
(FormatError is a ValueError, FileError an OSError, ...) and whose message has names and numbers. An argument of another type than
is wanted is a TypeError that names it, as everywhere in Python.
"""
from . import chat, constrain, hub, ops
from ._dsvk import (Array, BusyError, CancelledError, Decoder, DeviceLostError, DeviceMemoryError, Error, FileError,
                    FormatError, HostMemoryError, InvalidError, LimitError, NoDeviceError, NumericError, StateError,
                    Tensor, Tokenizer, UnsupportedError, __version__)
from .device import Device, Profile, devices
from .generation import Generation
from .model import Model, locate, plan, verify
from .plans import Plan
from .scheduler import Event, Request, Scheduler
from .session import Session
from .trace import Trace

__all__ = ["Array", "BusyError", "CancelledError", "Decoder", "Device", "DeviceLostError", "DeviceMemoryError", "Error",
           "Event", "FileError", "FormatError", "Generation", "HostMemoryError", "InvalidError", "LimitError", "Model",
           "NoDeviceError", "NumericError", "Plan", "Profile", "Request", "Scheduler", "Session", "StateError", "Tensor",
           "Tokenizer", "Trace", "UnsupportedError", "__version__", "chat", "constrain", "devices", "hub", "locate", "ops", "plan",
           "verify"]
