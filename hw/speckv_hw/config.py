"""The device's configuration; the model owns it so that the driver needs no HDL to read it."""

from speckv_model.config import PRESETS, DeviceConfig

__all__ = ["PRESETS", "DeviceConfig"]
