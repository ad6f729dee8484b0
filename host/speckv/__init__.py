"""The driver of CXL-SpecKV devices: `open` one, create contexts in it, append and read K and V."""

from speckv_model.config import PRESETS, DeviceConfig

from . import errors
from .context import Context
from .descriptors import DescriptorSet
from .device import Device
from .encoding import Encoding
from .errors import (
    AddressError,
    CommandError,
    ContextFreed,
    ContextsLost,
    DescriptorsFreed,
    DescriptorsFull,
    DescriptorsInUse,
    DeviceMismatch,
    DtypeError,
    LinkClosed,
    LinkError,
    LinkTimeout,
    PoisonError,
    ShapeError,
    SimulationDied,
    SpeckvError,
    TooManyContexts,
    UnknownCodec,
    WindowFull,
)
from .stats import ErrorRecord, Stats

__all__ = [
    "open",
    "Device",
    "Context",
    "DescriptorSet",
    "Encoding",
    "DeviceConfig",
    "Stats",
    "ErrorRecord",
    "errors",
    "AddressError",
    "CommandError",
    "ContextFreed",
    "ContextsLost",
    "DescriptorsFreed",
    "DescriptorsFull",
    "DescriptorsInUse",
    "DeviceMismatch",
    "DtypeError",
    "LinkClosed",
    "LinkError",
    "LinkTimeout",
    "PoisonError",
    "ShapeError",
    "SimulationDied",
    "SpeckvError",
    "TooManyContexts",
    "UnknownCodec",
    "WindowFull",
]

SCHEMES = ("sim", "emu")


def open(url, config=None, *, lookahead=2, **options):
    """Opens a device.

    Parameters
    ----------
    url : str
        ``sim:`` is the Verilated RTL in a process of its own, ``emu:`` the NumPy model; after the colon the
        preset of the configuration (`speckv_model.config.PRESETS`), ``default`` if it is left out.
    config : DeviceConfig, optional
        The configuration, in place of a preset.
    lookahead : int
        See `Device`.
    **options
        For the link: see `speckv.link.simulated.SimulatedLink` and `speckv.link.emulated.EmulatedLink`.

    Returns
    -------
    Device

    Raises
    ------
    ValueError
        `url` is not one of these.
    LinkError, DeviceMismatch
        The device does not come up.
    """
    scheme, colon, preset = url.partition(":")
    if scheme not in SCHEMES or not colon or preset not in ("", *PRESETS):
        raise ValueError(f"url must be 'sim:' or 'emu:' and then nothing or one of {', '.join(PRESETS)}, not {url!r}")
    if config is not None and preset:
        raise ValueError(f"config must not be given together with the preset in the url, {url!r}")
    link = open_link(scheme, config or DeviceConfig.preset(preset or "default"), **options)
    try:
        return Device(link, lookahead=lookahead)
    except BaseException:
        link.close()
        raise


def open_link(scheme, config, **options):
    """The bare link of `scheme` (``sim`` or ``emu``) to a device of `config`, without a driver."""
    if scheme == "sim":
        from .link.simulated import SimulatedLink as Link
    else:
        from .link.emulated import EmulatedLink as Link
    return Link(config, **options)
