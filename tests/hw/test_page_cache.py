"""The page cache with movers that are Python: what reads return, and what the cache asks of the movers."""

import random
from collections import Counter

import pytest
from amaranth.hdl import ShapeCastable, Value
from streams import SEED, simulate

from speckv_hw.cache.messages import CacheOp, CacheRequest, PrefetchProposal
from speckv_hw.cache.page_cache import PageCache
from speckv_hw.config import DeviceConfig
from speckv_hw.types import ErrorKind, FetchDone, FillLine, OpenDone, OpenKind, PageState, SealDone, SealKind, SlotLine

ALL = 2**64 - 1
BY_ROW = (6, 9, 5000)
"""Pages of a context that wants single rows."""


def info(page):
    return {"context": 3, "codec": 0, "dtype": 0, "by_row": page in BY_ROW}


def request(op, page, line=0, *, value=0, enable=ALL, poison=0, tag=0):
    return CacheRequest.const({
        "op": op, "page": page, "line": line, "data": value, "byte_enable": enable, "poison": poison,
        "stream": info(page),
        "source": {"channel": 0, "tag": tag, "ld_id": 0, "completes": 0, "completion": 0, "time": 0}})


def masked(old, new, enable):
    mask = int("".join("ff" if enable >> byte & 1 else "00" for byte in reversed(range(64))), 16)
    return old & ~mask | new & mask


class Store:
    """What lies behind the cache: sealed pages (with a codec that clears bit 0 of each line) and spilled ones."""

    def __init__(self, seed, room=10**9):
        self.rng = random.Random(f"store {seed}")
        self.sealed = {}
        self.spilled = {}
        self.opened = set()
        self.poisoned = set()
        self.room = room
        self.log = []
        self.opens = {}
        """By page, whether each attempt to open it succeeded."""

    async def pause(self, ctx):
        for _ in range(self.rng.choice((0, 0, 1, 5, 20))):
            await ctx.tick()

    async def take(self, ctx, port):
        await self.pause(ctx)
        ctx.set(port.ready, 1)
        bits, = await ctx.tick().sample(Value.cast(port.payload)).until(port.valid)
        ctx.set(port.ready, 0)
        shape = port.payload.shape()
        return shape.from_bits(bits) if isinstance(shape, ShapeCastable) else bits

    async def give(self, ctx, port, payload):
        await self.pause(ctx)
        await self.offer(ctx, port, payload)

    async def offer(self, ctx, port, payload):
        ctx.set(port.payload, payload)
        ctx.set(port.valid, 1)
        await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)

    async def fetcher(self, ctx, dut):
        while True:
            job = await self.take(ctx, dut.fetch_job)
            self.log.append(("fetch", job.page))
            done = {"slot": job.slot, "state": PageState.EMPTY, "base": 0, "written": 0, "poison": 0, "single": 0}
            lines = {}
            if job.page in self.poisoned:
                done["state"] = PageState.POISONED
            elif job.page in self.spilled:
                lines, done["base"], done["written"], done["poison"] = self.spilled.pop(job.page)
                done["state"] = PageState.OPEN
            elif job.page in self.sealed:
                lines = self.sealed[job.page]
                done["state"], done["written"] = PageState.SEALED, ALL
                if job.single:
                    self.log.append(("row", job.page))
                    done["single"], done["written"] = 1, 0xF << 4 * job.row
                    lines = {line: lines[line] for line in range(4 * job.row, 4 * job.row + 4)}
            whole = done["state"] == PageState.SEALED and not done["single"]
            sure_from = self.rng.choice((0, 3, 60, 64)) if whole else 64
            for line, value in lines.items():
                # Seldom a pause, since most clocks of a run would otherwise go by here.
                if self.rng.random() < 0.1:
                    await self.pause(ctx)
                ctx.set(dut.sure, {"valid": line >= sure_from, "slot": job.slot})
                await self.offer(ctx, dut.fill, FillLine.const({"slot": job.slot, "line": line, "data": value}))
            ctx.set(dut.sure.valid, 0)
            await self.give(ctx, dut.fetch_done, FetchDone.const(done))

    async def opener(self, ctx, dut):
        while True:
            job = await self.take(ctx, dut.open_job)
            self.log.append((job.kind.name.lower(), job.page))
            done = {"kind": job.kind, "slot": job.slot, "refused": 0, "state": PageState.EMPTY}
            if job.kind == OpenKind.OPEN:
                self.opens.setdefault(job.page, []).append(len(self.opened) < self.room)
                if len(self.opened) < self.room:
                    self.opened.add(job.page)
                    self.sealed.pop(job.page, None)
                    done["state"] = PageState.OPEN
                else:
                    done["refused"] = 1
                    done["state"] = PageState.SEALED if job.page in self.sealed else PageState.POISONED
                    if job.page not in self.sealed:
                        self.poisoned.add(job.page)
            else:
                self.opened.discard(job.page)
                self.sealed.pop(job.page, None)
                self.spilled.pop(job.page, None)
                self.poisoned.discard(job.page)
                if job.kind == OpenKind.POISON:
                    self.poisoned.add(job.page)
                    done["state"] = PageState.POISONED
            await self.give(ctx, dut.open_done, OpenDone.const(done))

    async def sealer(self, ctx, dut):
        while True:
            job = await self.take(ctx, dut.seal_job)
            self.log.append((job.kind.name.lower(), job.page))
            lines = {}
            for line in range(64):
                ctx.set(dut.seal_read.payload, SlotLine.const({"slot": job.slot, "line": line}))
                ctx.set(dut.seal_read.valid, 1)
                await ctx.tick().until(dut.seal_read.ready)
                ctx.set(dut.seal_read.valid, 0)
                value = await self.take(ctx, dut.seal_data) if self.rng.random() < 0.1 else None
                if value is None:
                    ctx.set(dut.seal_data.ready, 1)
                    value, = await ctx.tick().sample(dut.seal_data.payload).until(dut.seal_data.valid)
                    ctx.set(dut.seal_data.ready, 0)
                lines[line] = value if job.base or job.written >> line & 1 else 0
            state = PageState.OPEN
            if job.kind == SealKind.SPILL:
                self.spilled[job.page] = (lines, job.base, job.written, job.poison)
            else:
                self.opened.discard(job.page)
                state = PageState.POISONED if job.poison else PageState.SEALED
                if job.poison:
                    self.poisoned.add(job.page)
                else:
                    self.sealed[job.page] = {line: value & ~1 for line, value in lines.items()}
            done = {"kind": job.kind, "slot": job.slot, "state": state}
            await self.give(ctx, dut.seal_done, SealDone.const(done))


class Expectation:
    """DESIGN's table of page states, in Python.

    Whether a page can be opened depends on what other pages do meanwhile; `opens` says what happened.
    """

    def __init__(self, opens):
        self.pages = {}
        self.opens = opens
        self.errors = []

    def page(self, number):
        return self.pages.setdefault(number, {"state": "EMPTY", "lines": [0] * 64, "written": 0})

    def read(self, number, line):
        page = self.page(number)
        return (0, 1) if page["state"] == "POISONED" else (page["lines"][line], 0)

    def write(self, number, line, value, enable, poison):
        page = self.page(number)
        if not enable and not poison:
            return
        if poison or page["state"] == "POISONED":
            self.errors.append(ErrorKind.HOST_POISON if poison and page["state"] == "POISONED"
                               else ErrorKind.WRITE_POISONED if not poison else ErrorKind.HOST_POISON)
            page["state"] = "POISONED"
            return
        if page["state"] != "OPEN":
            if not self.opens[number].pop(0):
                self.errors.append(ErrorKind.NO_ROOM)
                if page["state"] == "EMPTY":
                    page["state"] = "POISONED"
                return
            page["state"], page["written"] = "OPEN", 0
        page["lines"][line] = masked(page["lines"][line], value, enable)
        page["written"] |= 1 << line
        if page["written"] == ALL:
            self.seal(number)

    def seal(self, number):
        page = self.page(number)
        if page["state"] == "OPEN":
            page["state"] = "SEALED"
            page["lines"] = [value & ~1 for value in page["lines"]]

    def free(self, number):
        self.pages.pop(number, None)


def traffic(rng, pages, count):
    """Random operations with runs of writes long enough to complete pages."""
    while count > 0:
        page, kind = rng.choice(pages), rng.random()
        if kind < 0.3:
            lines = list(range(64)) if rng.random() < 0.6 else rng.sample(range(64), 20)
            for line in lines:
                enable = ALL if rng.random() < 0.9 else rng.getrandbits(64)
                yield CacheOp.WRITE, page, line, rng.getrandbits(512), enable, rng.random() < 0.002
            count -= len(lines)
        elif kind < 0.8:
            for line in rng.sample(range(64), 8):
                yield CacheOp.READ, page, line, 0, ALL, 0
            count -= 8
        else:
            yield rng.choice((CacheOp.SEAL, CacheOp.FREE, CacheOp.FLUSH)), page, 0, 0, ALL, 0
            count -= 1
    for page in pages:
        yield CacheOp.FREE, page, 0, 0, ALL, 0
    for page in pages[:4]:
        yield CacheOp.WRITE, page, 3, rng.getrandbits(512), ALL, 0
        for op in (CacheOp.FLUSH, CacheOp.SEAL, CacheOp.READ, CacheOp.FREE, CacheOp.READ):
            yield op, page, 3, 0, ALL, 0


@pytest.mark.parametrize("pages, ways, room, stall", [
    (1, 1, 99, 0.0), (1, 1, 99, 0.4), (2, 2, 99, 0.4), (4, 2, 99, 0.0), (8, 4, 99, 0.4), (4, 4, 1, 0.2)])
def test_random_traffic(pages, ways, room, stall):
    seed = f"{SEED} {pages} {ways} {room} {stall}"
    rng = random.Random(seed)
    dut = PageCache(DeviceConfig.small(cache_pages=pages, cache_ways=ways))
    store = Store(seed, room)
    operations = list(traffic(rng, [5, 6, 7, 9, 13, 21, 5000, 60000][:max(4, 2 * pages)], 400))
    kinds = Counter(operation[0] for operation in operations)
    reads, writes = kinds[CacheOp.READ], kinds[CacheOp.WRITE]
    ops = len(operations) - reads - writes
    tagged = [operation[0] for operation in operations if operation[0] in (CacheOp.READ, CacheOp.WRITE)]
    found, written, errors = {}, [], []

    def replay():
        """What the reads should have returned, in their order, and the errors: all in the order of acceptance."""
        expected = Expectation({page: list(opens) for page, opens in store.opens.items()})
        for op, page, line, value, enable, poison in operations:
            match op:
                case CacheOp.READ:
                    yield expected.read(page, line)
                case CacheOp.WRITE:
                    expected.write(page, line, value, enable, poison)
                case CacheOp.SEAL:
                    expected.seal(page)
                case CacheOp.FREE:
                    expected.free(page)
        assert Counter(errors) == Counter(expected.errors)

    async def requests(ctx):
        tag = 0
        for op, page, line, value, enable, poison in operations:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.request.payload, request(op, page, line, value=value, enable=enable, poison=int(poison),
                                                 tag=tag & 0xffff))
            tag += op in (CacheOp.READ, CacheOp.WRITE)
            ctx.set(dut.request.valid, 1)
            await ctx.tick().until(dut.request.ready)
            ctx.set(dut.request.valid, 0)

    async def collect(ctx, port, count, take):
        got = 0
        stall_rng = random.Random(f"{seed} {count}")
        while got < count:
            ready = stall_rng.random() >= stall
            ctx.set(port.ready, ready)
            # Views of the payload are made of those that are taken only: they take longer than all else here.
            _, _, valid, bits = await ctx.tick().sample(port.valid, Value.cast(port.payload))
            if ready and valid:
                take(port.payload.shape().from_bits(bits))
                got += 1
        ctx.set(port.ready, 0)

    def take_read(payload):
        assert payload.source.tag not in found
        found[payload.source.tag] = payload.data, payload.poison

    async def prefetches(ctx):
        hint_rng = random.Random(f"hints {seed}")
        while True:
            await ctx.tick().repeat(hint_rng.randrange(1, 60))
            ctx.set(dut.prefetch.payload, PrefetchProposal.const({
                "page": (page := hint_rng.choice([5, 6, 7, 9, 13, 21, 5000, 60000])), "stream": info(page)}))
            ctx.set(dut.prefetch.valid, 1)
            await ctx.tick().until(dut.prefetch.ready)
            ctx.set(dut.prefetch.valid, 0)

    simulate(
        dut, requests,
        lambda ctx: collect(ctx, dut.read_response, reads, take_read),
        lambda ctx: collect(ctx, dut.write_response, writes, lambda payload: written.append(payload.source.tag)),
        lambda ctx: collect(ctx, dut.op_done, ops, lambda _: None),
        background=[lambda ctx: collect(ctx, dut.error, 10**9, lambda payload: errors.append(payload.kind)),
                    lambda ctx: store.fetcher(ctx, dut), lambda ctx: store.opener(ctx, dut),
                    lambda ctx: store.sealer(ctx, dut), prefetches],
        watched=[dut.read_response, dut.write_response, dut.op_done, dut.fetch_job, dut.open_job, dut.seal_job,
                 dut.error],
        clocks=60_000)
    want = dict(zip((tag for tag, op in enumerate(tagged) if op == CacheOp.READ), replay(), strict=True))
    assert [tag for tag in want if want[tag] != found[tag]] == [], f"seed {seed}"
    assert sorted(written) == [tag for tag, op in enumerate(tagged) if op == CacheOp.WRITE]
    kinds = {kind for kind, _ in store.log}
    assert {"fetch", "open", "free", "seal", "row"} <= kinds
    assert {page for kind, page in store.log if kind == "row"} <= set(BY_ROW)
    if pages < 8:
        assert "spill" in kinds
    if room < 99:
        assert ErrorKind.NO_ROOM in errors


def test_reads_are_served_while_the_page_still_comes():
    """Those of lines that are there, once the fetcher is sure; the others, writes and what follows these wait."""
    dut = PageCache(DeviceConfig.small())
    got, fetched = [], []

    async def requests(ctx):
        ctx.set(dut.read_response.ready, 1)
        ctx.set(dut.write_response.ready, 1)
        for tag, (op, line) in enumerate([(CacheOp.READ, 1), (CacheOp.READ, 0), (CacheOp.READ, 40),
                                          (CacheOp.WRITE, 0), (CacheOp.READ, 0)]):
            ctx.set(dut.request.payload, request(op, 7, line, value=99, tag=tag))
            ctx.set(dut.request.valid, 1)
            await ctx.tick().until(dut.request.ready)
        ctx.set(dut.request.valid, 0)

    async def responses(ctx):
        async for *_, valid, payload in ctx.tick().sample(dut.read_response.valid, dut.read_response.payload):
            if valid:
                got.append((payload.source.tag, payload.data, payload.poison))

    async def fetcher(ctx):
        store = Store(SEED)
        job = await store.take(ctx, dut.fetch_job)
        for line in range(64):
            ctx.set(dut.sure, {"valid": line >= 3, "slot": job.slot})
            await store.offer(ctx, dut.fill, FillLine.const({"slot": job.slot, "line": line, "data": line << 8}))
            if line in (2, 20, 63):
                await ctx.tick().repeat(10)
                fetched.append(len(got))
        ctx.set(dut.sure.valid, 0)
        await store.offer(ctx, dut.fetch_done, FetchDone.const(
            {"slot": job.slot, "state": PageState.SEALED, "written": ALL}))
        job = await store.take(ctx, dut.open_job)
        assert len(got) == 3
        await store.offer(ctx, dut.open_done, OpenDone.const(
            {"kind": job.kind, "slot": job.slot, "state": PageState.OPEN}))
        await ctx.tick().repeat(20)

    simulate(dut, requests, fetcher, background=[responses], clocks=500)
    assert fetched == [0, 2, 3]
    assert got == [(0, 1 << 8, 0), (1, 0, 0), (2, 40 << 8, 0), (4, 99, 0)]


def test_hits_take_the_stated_latency_and_one_clock_each():
    dut = PageCache(DeviceConfig.small())
    store = Store(SEED)
    store.sealed[7] = {line: line << 8 for line in range(64)}
    accepted, answered = [], []

    async def requests(ctx):
        for line in [0] + list(range(64)):
            ctx.set(dut.request.payload, request(CacheOp.READ, 7, line))
            ctx.set(dut.request.valid, 1)
            await ctx.tick().until(dut.request.ready)
            if not accepted:
                ctx.set(dut.request.valid, 0)
                await ctx.tick().repeat(2000)
            accepted.append(None)
        ctx.set(dut.request.valid, 0)

    async def times(ctx):
        clock = 0
        ctx.set(dut.read_response.ready, 1)
        asked = []
        async for _, _, request_in, response_out in ctx.tick().sample(
                dut.request.valid & dut.request.ready, dut.read_response.valid):
            clock += 1
            if request_in:
                asked.append(clock)
            if response_out:
                answered.append(clock - asked[len(answered)])
                if len(answered) == 65:
                    return

    simulate(dut, requests, times, background=[lambda ctx: store.fetcher(ctx, dut)])
    assert answered[1:] == [dut.latency] * 64



async def _ask(ctx, dut, operations):
    for tag, (op, page, line) in enumerate(operations):
        ctx.set(dut.request.payload, request(op, page, line, value=tag, tag=tag))
        ctx.set(dut.request.valid, 1)
        await ctx.tick().until(dut.request.ready)
    ctx.set(dut.request.valid, 0)


async def _tags(ctx, port, count):
    ctx.set(port.ready, 1)
    tags = []
    while len(tags) < count:
        tag, = await ctx.tick().sample(port.payload.source.tag).until(port.valid)
        tags.append(tag)
    ctx.set(port.ready, 0)
    return tags


def test_hits_pass_misses_and_misses_share_a_fetch():
    """While no fetch ends, pages that are here are read and written, others asked for, and each of these but once."""
    dut = PageCache(DeviceConfig.small())
    store = Store(SEED)
    store.sealed[6] = dict.fromkeys(range(64), 5)
    jobs = []

    async def run(ctx):
        # Page 4 becomes OPEN with the help of the movers, then fetches are left lying.
        await _ask(ctx, dut, [(CacheOp.WRITE, 4, 0)])
        job = await store.take(ctx, dut.fetch_job)
        await store.offer(ctx, dut.fetch_done, FetchDone.const({"slot": job.slot, "state": PageState.EMPTY}))
        job = await store.take(ctx, dut.open_job)
        await store.offer(ctx, dut.open_done, OpenDone.const(
            {"kind": OpenKind.OPEN, "slot": job.slot, "state": PageState.OPEN}))
        assert await _tags(ctx, dut.write_response, 1) == [0]
        await _ask(ctx, dut, [(CacheOp.READ, 5, 1), (CacheOp.READ, 7, 2), (CacheOp.READ, 5, 3), (CacheOp.WRITE, 4, 9),
                              (CacheOp.READ, 4, 0), (CacheOp.READ, 7, 4), (CacheOp.READ, 4, 9)])
        assert await _tags(ctx, dut.read_response, 2) == [4, 6]
        assert await _tags(ctx, dut.write_response, 1) == [3]
        for _ in range(2):
            jobs.append(await store.take(ctx, dut.fetch_job))
        for _ in range(50):
            assert not ctx.get(dut.fetch_job.valid) and not ctx.get(dut.read_response.valid)
            await ctx.tick()
        # Those of a page come in order when it is there, whichever comes first.
        for job in reversed(jobs):
            await store.offer(ctx, dut.fetch_done, FetchDone.const({"slot": job.slot, "state": PageState.EMPTY}))
        assert await _tags(ctx, dut.read_response, 4) == [1, 5, 0, 2]

    simulate(dut, run, watched=[dut.read_response, dut.write_response, dut.fetch_job])
    assert [job.page for job in jobs] == [5, 7]


@pytest.mark.parametrize("op", [CacheOp.READ, CacheOp.WRITE])
def test_a_list_is_served_at_a_line_a_clock(op):
    """Beside requests that join the list of the next page."""
    dut = PageCache(DeviceConfig.small(requests_in_flight=128))
    port = dut.read_response if op == CacheOp.READ else dut.write_response
    clocks = []

    async def movers(ctx):
        for _ in range(2):
            ctx.set(dut.fetch_job.ready, 1)
            slot, = await ctx.tick().sample(dut.fetch_job.payload.slot).until(dut.fetch_job.valid)
            ctx.set(dut.fetch_job.ready, 0)
            await ctx.tick().repeat(60)
            ctx.set(dut.fetch_done.payload, FetchDone.const({"slot": slot, "state": PageState.OPEN}))
            ctx.set(dut.fetch_done.valid, 1)
            await ctx.tick().until(dut.fetch_done.ready)
            ctx.set(dut.fetch_done.valid, 0)

    async def count(ctx):
        clock = 0
        ctx.set(port.ready, 1)
        async for _, _, valid in ctx.tick().sample(port.valid):
            clock += 1
            if valid:
                clocks.append(clock)
            if len(clocks) == 126:
                return

    simulate(dut, lambda ctx: _ask(ctx, dut, [(op, page, line) for page in (4, 9) for line in range(63)]), count,
             background=[movers])
    assert clocks[61] - clocks[0] <= 63 and clocks[124] - clocks[63] <= 63


def test_pages_that_are_written_in_order():
    """While movers keep up with many pages on their way each takes two clocks beside those of its lines, and a write
    asks the opener for its page as soon as it is found EMPTY."""
    dut = PageCache(DeviceConfig.small(cache_pages=16, cache_ways=2, requests_in_flight=512))
    pages, queues, now, log = 14, {"fetch": [], "open": [], "seal": []}, [0], []
    # The opener has one page at a time, and finds out of several at once that they are EMPTY.
    ports = {"fetch": (dut.fetch_job, dut.fetch_done, 30, 8), "open": (dut.open_job, dut.open_done, 40, 1),
             "seal": (dut.seal_job, dut.seal_done, 150, 4)}

    async def take(ctx, name):
        job, _, latency, most = ports[name]
        while True:
            while len(queues[name]) == most:
                await ctx.tick()
            ctx.set(job.ready, 1)
            slot, = await ctx.tick().sample(job.payload.slot).until(job.valid)
            ctx.set(job.ready, 0)
            due = now[0] + latency
            queues[name].append((due if name != "fetch" else -(-due // 256) * 256, slot))

    async def answer(ctx, name):
        done = ports[name][1]
        states = {"fetch": PageState.EMPTY, "open": PageState.OPEN, "seal": PageState.SEALED}
        while True:
            if queues[name] and queues[name][0][0] <= now[0]:
                payload = {"slot": queues[name][0][1], "state": states[name]}
                kind = {"fetch": {}, "open": {"kind": OpenKind.OPEN}, "seal": {"kind": SealKind.SEAL}}[name]
                ctx.set(done.payload, done.payload.shape().const(payload | kind))
                ctx.set(done.valid, 1)
                await ctx.tick().until(done.ready)
                ctx.set(done.valid, 0)
                queues[name].pop(0)
            else:
                await ctx.tick()

    async def clock(ctx):
        ctx.set(dut.write_response.ready, 1)
        async for _, _, accepted in ctx.tick().sample(dut.request.valid & dut.request.ready):
            now[0] += 1
            if accepted:
                log.append(now[0])

    simulate(dut, lambda ctx: _ask(ctx, dut, [(CacheOp.WRITE, page, line) for page in range(pages)
                                              for line in range(64)]),
             background=[clock] + [lambda ctx, act=act, name=name: act(ctx, name)
                                   for act in (take, answer) for name in ports])
    assert log[64 * pages - 1] - log[64 * 5 - 1] <= 66 * (pages - 5)
