"""What fragmentation costs the pool over a long random life of contexts, with pages of the sizes of real K and V."""

import itertools

import numpy as np
from ml_dtypes import bfloat16

from speckv_model.constants import OPEN_SECTORS, PAGE_BYTES, Dtype
from speckv_model.pool.pool_allocator import PoolAllocator

from ..capacity import sectors_of
from ..formats import CodecFormat
from ..traffic import kv_lines

RATES = tuple(("fixed", rate) for rate in range(7, 17))
MIXES = {
    "mixed": (("lossless", 0), ("speckv", 0), *RATES),
    "lossless": (("lossless", 0),),
    "speckv": (("speckv", 0),),
    "fixed": RATES,
    "fixed 8": (("fixed", 8),),
}
"""(codec, setting) of the contexts of a life; each codec of a mix is as likely as the others."""
GROWING = 8
"""Contexts that grow at the same time."""
STREAMS = (4, 8, 24, 64)
MOST_PAGES = 32
"""Pages of a stream of a context, at most."""
SHARE = 1 / 40
"""A context's streams have no more OPEN pages than fit in this share of the pool, and are no longer than that many."""
RELIEF = 0.03
"""When a page finds no room contexts are freed, until so much less of the pool is taken."""


def page_sectors(codec, setting):
    """Sectors that pages of captured K and V in BF16 take: int, (n,)."""
    _, stored = CodecFormat.of(codec, setting).code(0, kv_lines(Dtype.BF16).reshape(1, -1, PAGE_BYTES), bfloat16)
    return sectors_of(stored.ravel())


def pool_loss(config, mix="mixed", pages=200_000, seed=1):
    """How much of the pool is free when a page finds no room in it.

    Contexts are created, filled page by page (an OPEN page's reservation, then a place of the sealed page's size) and
    freed, in random order, with the model's allocator. The last page of each stream stays OPEN. Whatever is free when a
    page cannot be opened counts as lost; then contexts are freed, and the life goes on.

    Parameters
    ----------
    config : DeviceConfig
        What it says of the pool matters.
    mix : str
        One of `MIXES`.
    pages : int
        How many are sealed, at least, once the pool was full. What counts is the second half of them: a pool that was
        full for the first time has hardly any holes.
    seed : int

    Returns
    -------
    dict
        ``worst_pct``, ``mean_pct``: the loss, in % of the pool; ``holes_pct``: of that, what is in no run of 33
        sectors, on average; ``samples``; ``pages`` sealed and ``contexts`` created in all.
    """
    life = _Life(config, MIXES[mix], np.random.default_rng(seed))
    losses, holes, first, last = [], [], None, None
    while not losses or life.sealed < last:
        if life.step():
            continue
        if first is None:
            first, last = life.sealed + pages // 2, life.sealed + pages
        if life.sealed >= first:
            losses.append(1 - life.taken)
            holes.append(life.pool.loss())
        life.relieve()
    return {"worst_pct": 100 * max(losses), "mean_pct": 100 * float(np.mean(losses)),
            "holes_pct": 100 * float(np.mean(holes)), "samples": len(losses), "pages": life.sealed,
            "contexts": life.created}


class _Context:
    """`places`: (sector, sectors) of sealed pages; `open`: the reservations of OPEN ones, the oldest first."""

    def __init__(self, number, sizes, streams, pages):
        self.number, self.sizes, self.streams, self.left = number, sizes, streams, pages * streams
        self.places, self.open = [], []


class _Life:
    def __init__(self, config, choices, rng):
        self.pool = PoolAllocator(config)
        self._sectors, self._rng = config.pool_sectors, rng
        self._sizes = {}
        for codec, setting in choices:
            self._sizes.setdefault(codec, []).append(page_sectors(codec, setting))
        self._growing, self._grown = [], []
        self._numbers = set()
        self.sealed = self.created = 0

    @property
    def taken(self):
        """Share of the pool that pages have."""
        return 1 - self.pool.free_sectors / self._sectors

    def step(self):
        """Opens a page of a context that grows, after the last one of its stream was sealed. False without room."""
        while len(self._growing) < GROWING:
            self._create()
        which = int(self._rng.integers(len(self._growing)))
        context = self._growing[which]
        if len(context.open) == context.streams:
            if not context.left:
                self._grown.append(self._growing.pop(which))
                return True
            self._seal(context)
        place = self.pool.allocate(OPEN_SECTORS, context.number)
        if place is not None:
            context.open.append(place)
            return True
        self._grown.append(self._growing.pop(which))
        return False

    def relieve(self):
        """Frees contexts that have ended."""
        wanted = self.taken - RELIEF
        while self._grown and self.taken > wanted:
            context = self._grown.pop(int(self._rng.integers(len(self._grown))))
            for place, sectors in context.places:
                self.pool.free(place, sectors)
            for place in context.open:
                self.pool.free(place, OPEN_SECTORS)
            self._numbers.remove(context.number)

    def _create(self):
        rng, most = self._rng, max(1, int(SHARE * self._sectors / OPEN_SECTORS))
        codecs = list(self._sizes.values())
        settings = codecs[rng.integers(len(codecs))]
        sizes = settings[rng.integers(len(settings))]
        streams, pages = min(int(rng.choice(STREAMS)), most), int(rng.integers(1, min(MOST_PAGES, most) + 1))
        # As the driver gives numbers out.
        number = next(n for n in itertools.count() if n not in self._numbers)
        self._numbers.add(number)
        self._growing.append(_Context(number, sizes, streams, pages))
        self.created += 1

    def _seal(self, context):
        reserved, sectors = context.open.pop(0), int(self._rng.choice(context.sizes))
        place = self.pool.allocate(sectors, context.number)
        if place is not None:
            self.pool.free(reserved, OPEN_SECTORS)
        else:
            place = reserved
            self.pool.free(reserved + sectors, OPEN_SECTORS - sectors)
        context.places.append((place, sectors))
        context.left -= 1
        self.sealed += 1
