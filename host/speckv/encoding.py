"""How pages are encoded, in a user's words: a codec and what it is told."""

from typing import NamedTuple

import numpy as np

from speckv_model.codec import CODECS, fixed, variable
from speckv_model.codec.fixed import UNIT_BYTES
from speckv_model.constants import Codec

from .errors import UnknownCodec

RATES = range(UNIT_BYTES * fixed.SETTINGS[0], UNIT_BYTES * fixed.SETTINGS[-1] + 1, UNIT_BYTES)
"""Bytes of a row of 256 bytes that codec ``fixed`` can store it in."""
STEPS = tuple(variable.step(setting) for setting in variable.SETTINGS)
"""Step of codec ``variable`` by setting: values come back within half a step, but for the rounding to the dtype."""


class Encoding(NamedTuple):
    """A codec (its name) with its setting (a number that the codec understands)."""
    codec: str
    setting: int

    @property
    def fields(self):
        """Fields of a command."""
        return dict(codec=Codec[self.codec.upper()], setting=self.setting)


def make_encoding(codec, available, setting=None, *, rate=None, step=None):
    """The `Encoding` that a user means.

    Parameters
    ----------
    codec : str
    available : sequence of str
        Codecs that the device has.
    setting : int, optional
        The codec's default if nothing else is given.
    rate : int, optional
        ``fixed``: bytes for each row, one of `RATES`.
    step : float, optional
        ``variable``: the largest step that may be used; the device has eight in each octave.

    Raises
    ------
    UnknownCodec
        The device does not have the codec.
    TypeError, ValueError
        The codec does not take what it is told.
    """
    if codec not in available:
        raise UnknownCodec(codec, available)
    given = [name for name, value in (("setting", setting), ("rate", rate), ("step", step)) if value is not None]
    if len(given) > 1:
        raise ValueError(f"only one of setting, rate and step must be given, not {' and '.join(given)}")
    if rate is not None:
        setting = _setting_of_rate(codec, rate)
    elif step is not None:
        setting = _setting_of_step(codec, step)
    module = CODECS[Codec[codec.upper()]]
    if setting is None:
        setting = module.DEFAULT_SETTING
    if not isinstance(setting, (int, np.integer)) or isinstance(setting, bool):
        raise TypeError(f"setting must be an int, not {setting!r}")
    if setting not in module.SETTINGS:
        low, high = module.SETTINGS[0], module.SETTINGS[-1]
        raise ValueError(f"setting of codec {codec!r} must be {f'from {low} to {high}' if high > low else low}, "
                         f"not {setting!r}")
    return Encoding(codec, int(setting))


def _setting_of_rate(codec, rate):
    if codec != "fixed":
        raise ValueError(f"rate must only be given with codec 'fixed', not with {codec!r}; leave it out")
    if rate not in RATES:
        raise ValueError(f"rate must be a multiple of {RATES.step} bytes from {RATES[0]} to {RATES[-1]} (64: a quarter "
                         f"of a row's bytes), not {rate!r}")
    return int(rate) // RATES.step


def _setting_of_step(codec, step):
    if codec != "variable":
        raise ValueError(f"step must only be given with codec 'variable', not with {codec!r}; leave it out")
    if not STEPS[0] <= step < np.inf:
        raise ValueError(f"step must be a number from {STEPS[0]:g} on (0.0625: values come back within 0.03125), "
                         f"not {step!r}")
    return int(np.searchsorted(STEPS, step, side="right")) - 1
