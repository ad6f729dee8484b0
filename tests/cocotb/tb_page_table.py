"""Random requests of several clients to the page table; see test_page_table.py."""

import random
from collections import Counter

import cocotb
from axi_memory import AxiMemory
from bench import Bench, Packing
from runner import SEED, parameters

from speckv_hw.types import TableOp, TableRequest, TableResponse
from speckv_model.config import DeviceConfig
from speckv_model.constants import ENTRIES_PER_LINE, ENTRY_BYTES, LINE_BYTES
from speckv_model.table.entry import FIELDS, POISONED, Entry
from speckv_model.table.page_table import TableFault

REQUEST, RESPONSE = Packing(TableRequest), Packing(TableResponse)
REQUESTS = 800
"""Of each client."""
CLOCKS = 400
"""More than a request takes while all clients want the same line."""
SHARED_LINES = 9
OWN_LINES = 100


class Client:
    """Uses some of the entries in lines that all clients share, and clears parts of a range of its own.

    The memory begins with noise, so that most entries are corrupt until they are written.
    """

    def __init__(self, bench, memory, number, shared, own, *, idle, stall):
        self._memory = memory
        self._rng = random.Random(f"client {number} {SEED}")
        self._shared, self._own = shared, own
        self._known = {}
        self._expected = None
        self.sent = 0
        self.seen = Counter()
        self.request = bench.source(f"request{number}", idle=idle, supply=self._next)
        self.response = bench.sink(f"response{number}", stall=stall, take=self._take)

    @property
    def done(self):
        return self.sent == REQUESTS and self._expected is None

    def _next(self):
        if self._expected is not None or self.sent == REQUESTS:
            return None
        self.sent += 1
        rng = self._rng
        page = rng.choice(self._shared if rng.random() < 0.8 else self._own)
        kind = rng.choices([TableOp.LOOKUP, TableOp.UPDATE, TableOp.CLEAR], [60, 35, 1])[0]
        entry = Entry(**{name: rng.getrandbits(width) for name, width in FIELDS.items()})
        count = 0
        if kind == TableOp.LOOKUP:
            self._expected = self.entry(page)
        elif kind == TableOp.UPDATE:
            self._known[page] = entry.sealed()
            self._expected = Entry(), TableFault.NONE
        else:
            page = self._own[ENTRIES_PER_LINE * rng.randrange(OWN_LINES)]
            count = ENTRIES_PER_LINE * rng.randint(0, (self._own.stop - page) // ENTRIES_PER_LINE)
            self._known |= dict.fromkeys(range(page, page + count), Entry())
            self._expected = Entry(), TableFault.NONE
        self.seen[kind] += 1
        return REQUEST.pack(op=kind.value, page=page, count=count, entry=packed(entry))

    def entry(self, page):
        """What a lookup must return: (Entry, TableFault)."""
        entry = self._known.get(page) or stored(self._memory, page)
        return (entry, TableFault.NONE) if entry.intact else (POISONED, TableFault.CORRUPT)

    def _take(self, payload):
        response = RESPONSE.unpack(payload)
        entry, fault = self._expected
        assert (response["entry"], response["fault"]) == (packed(entry), fault)
        self._expected = None
        self.seen[fault] += 1

    def check_memory(self):
        """DRAM has every entry that was written."""
        for page, entry in self._known.items():
            assert stored(self._memory, page) == entry, f"page {page}"


def packed(entry):
    return int.from_bytes(entry.pack(), "little")


def stored(memory, page):
    """The entry of `page` in DRAM."""
    line, quarter = divmod(page, ENTRIES_PER_LINE)
    line = memory.read(line).to_bytes(LINE_BYTES, "little")
    return Entry.unpack(line[quarter * ENTRY_BYTES:(quarter + 1) * ENTRY_BYTES])


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.7], stall=[0.0, 0.7])
async def clients_share_lines(dut, idle, stall):
    config, clients = DeviceConfig.from_dict(parameters()["config"]), parameters()["clients"]
    rng = random.Random(f"lines {SEED}")
    bench = Bench(dut)
    memory = bench.add(AxiMemory(bench, config, latency=(1, 20), pause=0.2))
    ranges = rng.sample(range(config.table_lines // OWN_LINES), clients + 1)
    shared = [ENTRIES_PER_LINE * (ranges[clients] * OWN_LINES + line) + quarter
              for line in rng.sample(range(OWN_LINES), SHARED_LINES) for quarter in range(ENTRIES_PER_LINE)]
    rng.shuffle(shared)
    users = []
    for number in range(clients):
        first = ENTRIES_PER_LINE * OWN_LINES * ranges[number]
        own = range(first, first + ENTRIES_PER_LINE * OWN_LINES)
        users.append(Client(bench, memory, number, shared[number::clients], own, idle=idle, stall=stall))

    lookups = Counter()

    class Pulses:
        def reset(self):
            pass

        def step(self):
            lookups["hit"] += int(dut.hit.value)
            lookups["miss"] += int(dut.miss.value)

    bench.add(Pulses())
    await bench.start()
    await bench.until(lambda: all(user.done for user in users), CLOCKS * clients * REQUESTS)
    await bench.tick(100)
    assert not any(agent.busy for user in users for agent in (user.request, user.response)) and not memory.busy
    for user in users:
        user.check_memory()
        assert all(user.seen[kind] > 3 for kind in (*TableOp, TableFault.NONE, TableFault.CORRUPT))
    assert sum(lookups.values()) == sum(user.seen[TableOp.LOOKUP] for user in users)
    assert min(lookups.values()) > 100
    cocotb.log.info("%d clocks, %s", bench.clock, dict(lookups))
