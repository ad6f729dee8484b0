"""What the movers share: the layout of a spilled page and the arithmetic of places."""

from amaranth.hdl import Mux
from amaranth.lib import data

from speckv_hw.types import PageState
from speckv_model.constants import OPEN_SECTORS, SECTOR_LINES

MAX_STORED_LINES = OPEN_SECTORS * SECTOR_LINES - 1
"""A spilled page: its header and 64 lines."""


class SpillHeader(data.Struct):
    """First line of a spilled OPEN page; its lines follow up to the last one that holds content."""
    written: 64
    base: 1
    reserved: 63
    poison: 64
    padding: 320


def sectors_of(entry):
    """Sectors of the pool that a page holds whose `entry` has a place."""
    return Mux(entry.state == PageState.OPEN, OPEN_SECTORS, (entry.lines + 1) >> 1)


def first_line(config, sector):
    """DRAM line at which pool `sector` begins."""
    return config.pool_base_line + (sector << 1)
