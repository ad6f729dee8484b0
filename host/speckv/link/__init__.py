"""Ways to a device: the model in this process, or the simulated RTL in a process of its own."""

from .base import Link
from .emulated import EmulatedLink
from .simulated import SimulatedLink

__all__ = ["EmulatedLink", "Link", "SimulatedLink"]
