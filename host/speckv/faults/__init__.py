"""Faults injected into a device's DRAM, and what comes of them."""

from .campaign import Campaign, main

__all__ = ["Campaign", "main"]
