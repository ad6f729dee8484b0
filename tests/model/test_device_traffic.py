"""What reads return does not depend on the cache: random traffic on caches of many sizes."""

import numpy as np
import pytest
from device_bench import SEED, Bench, addresses, cached, kv_lines, small

from speckv_model.constants import PAGE_LINES, Codec, Dtype
from speckv_model.cxl import messages

CACHES = [1, 2, 4, 16, 64]
CONTEXTS = [(Codec.SPECKV, Dtype.FP16, 0), (Codec.RAW, Dtype.FP16, 0), (Codec.SPECKV, Dtype.BF16, 3),
            (Codec.RAW, Dtype.BF16, 9)]

COUNTED = ("CACHE_HITS", "CACHE_MISSES", "PAGES_SPILLED", "PAGES_SEALED", "DRAM_LINES_READ",
           "DRAM_LINES_WRITTEN", "ERROR_COUNT")


class Traffic:
    """Random requests and commands to a few hot pages of each of `CONTEXTS`."""

    def __init__(self, bench, rng, hot_pages):
        self.bench, self.rng = bench, rng
        self.pages = {}
        for number, (codec, dtype, ld_id) in enumerate(CONTEXTS, 2):
            first = number * bench.config.granule_pages
            bench.create(number, first, bench.config.granule_pages, codec, dtype, ld_id)
            for page in range(first, first + hot_pages):
                self.pages[page] = number, ld_id

    def page(self):
        """A random hot page, its context and that one's owner."""
        page = int(self.rng.choice(list(self.pages)))
        return page, *self.pages[page]

    def requests(self):
        """A few requests to one page."""
        rng = self.rng
        page, _, ld_id = self.page()
        if rng.random() < 0.03:
            ld_id ^= 1
        start, count = rng.integers(PAGE_LINES), rng.integers(1, 9)
        lines = (start + np.arange(count)) % PAGE_LINES
        where, data = addresses(page, lines), kv_lines(rng, count, rng.choice(["k", "v"]))
        match rng.choice(9, p=[.35, .05, .3, .08, .08, .1, .01, .01, .02]):
            case 0:
                return messages.reads(where, ld_id=ld_id)
            case 1:
                return messages.hints(where, ld_id=ld_id)
            case 2:
                return messages.writes(where, data, ld_id=ld_id)
            case 3:
                enables = rng.integers(1 << 64, size=count, dtype=np.uint64)
                return messages.writes(where, data, ld_id=ld_id, byte_enable=enables)
            case 4:
                enables = rng.choice(np.array([0, 1, 0xFFFF, 2**64 - 1], np.uint64), count)
                return messages.writes(where, data, ld_id=ld_id, byte_enable=enables)
            case 5:
                lines = rng.permutation(PAGE_LINES) if rng.random() < 0.5 else np.arange(PAGE_LINES)
                return messages.writes(addresses(page, lines), kv_lines(rng, PAGE_LINES), ld_id=ld_id)
            case 6:
                return messages.writes(where, data, ld_id=ld_id, poison=1)
            case 7:
                noise = rng.integers(0, 256, (PAGE_LINES, 64), np.uint8)
                return messages.writes(addresses(page, np.arange(PAGE_LINES)), noise, ld_id=ld_id)
            case 8:
                lines = rng.integers(PAGE_LINES, size=200)
                return messages.writes(addresses(page, lines), kv_lines(rng, 200), ld_id=ld_id)

    def step(self):
        """A batch, interleaved or not, or a command."""
        rng, bench = self.rng, self.bench
        if rng.random() < 0.7:
            parts = [self.requests() for _ in range(rng.integers(1, 6))]
            requests = np.concatenate(parts)
            if rng.random() < 0.3:
                requests = requests[rng.permutation(len(requests))]
            bench.submit(requests)
            return
        page, context, _ = self.page()
        operation = rng.choice([bench.seal, bench.free, bench.flush, bench.prefetch], p=[.25, .15, .3, .3])
        operation(page, context)

    def check(self):
        """Reads every hot page."""
        for page, (_, ld_id) in self.pages.items():
            self.bench.read(page, ld_id=ld_id)
            self.bench.state(page)
        self.bench.check_pool()


@pytest.mark.parametrize("hot_pages, is_tight", [(6, False), (30, True)])
def test_every_cache_gives_the_same_answers(hot_pages, is_tight):
    print(f"SPECKV_SEED={SEED}")
    logs = []
    for pages in CACHES:
        rng = np.random.default_rng([SEED, hot_pages])
        bench = Bench(cached(pages))
        traffic = Traffic(bench, rng, hot_pages)
        least = bench.config.pool_sectors
        for _ in range(250):
            traffic.step()
            least = min(least, bench.device.pool.free_sectors)
        traffic.check()
        # Errors come in the same order too: the log shows the first, the last and their number.
        logs.append(bench.errors())
    assert len(set(logs)) == 1
    assert logs[0][2] > 0


@pytest.mark.parametrize("ways", [1, 4, 8])
def test_every_associativity_gives_the_same_answers(ways):
    print(f"SPECKV_SEED={SEED}")
    bench = Bench(small(cache_pages=max(8, ways), cache_ways=ways))
    traffic = Traffic(bench, np.random.default_rng([SEED, ways]), 6)
    for _ in range(200):
        traffic.step()
    traffic.check()


def test_one_request_at_a_time_or_all_at_once():
    print(f"SPECKV_SEED={SEED}")
    answers, counts = [], []
    for step in (1, 7, 100_000):
        rng = np.random.default_rng(SEED)
        bench = Bench(cached(4))
        traffic = Traffic(bench, rng, 4)
        requests = np.concatenate([traffic.requests() for _ in range(150)])
        answers.append(b"".join(bench.device.submit(requests[n:n + step]).tobytes()
                                for n in range(0, len(requests), step)))
        counts.append([bench.counter(name) for name in COUNTED])
    assert answers[0] == answers[1] == answers[2]
    assert counts[0] == counts[1] == counts[2]
