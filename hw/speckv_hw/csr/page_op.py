"""What the command engine asks of the page cache."""

from amaranth.hdl import unsigned
from amaranth.lib import data, enum

from speckv_hw.types import PAGE_WIDTH, Status, StreamInfo
from speckv_model.csr import commands


class PageOpKind(enum.Enum, shape=unsigned(2)):
    SEAL = int(commands.PageOpKind.SEAL)
    """Seal the page if it is OPEN."""
    FREE = int(commands.PageOpKind.FREE)
    """Give back what the page holds; it becomes EMPTY."""
    PREFETCH = int(commands.PageOpKind.PREFETCH)
    """Bring the page on chip."""
    FLUSH = int(commands.PageOpKind.FLUSH)
    """Write the page to DRAM if it is OPEN, and forget it on chip."""


class PageOp(data.Struct):
    kind: PageOpKind
    page: PAGE_WIDTH
    stream: StreamInfo


class PageOpDone(data.Struct):
    """Answer to a `PageOp`."""
    status: Status
