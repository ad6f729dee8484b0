"""A host at the CXL.mem ports of a design, with a golden model that is asked the same."""

import random
from collections import Counter
from functools import partial

from bench import Packing
from runner import SEED

from speckv_hw.cxl.messages import Drs, Ndr, Req, RwD
from speckv_model.constants import PAGE_BITS, MetaField
from speckv_model.cxl.messages import Channel, Expect

__all__ = ["CxlHost"]

REQ, RWD, NDR, DRS = map(Packing, (Req, RwD, Ndr, Drs))
TAGS = 1 << 16
REQUEST_CLOCKS = 3000
"""More than a request can take that misses, seals one page and spills another."""


class CxlHost:
    """Sends batches of requests to the design and to a model, and compares every answer.

    Requests to one page take effect in batch order: since a device promises that within a channel only, one
    waits for the earlier ones of the other channel to its page. Otherwise both channels go as fast as they
    can, with random unique tags.

    Parameters
    ----------
    bench : Bench
    model
        `submit(requests)` returns what `requests` (`REQUEST`, (n,)) are answered with: `RESPONSE`, (n,).
    idle, stall : float
        Probabilities of idle clocks on the request channels and of back-pressure on the response channels.

    Attributes
    ----------
    req, rwd : Source
    ndr, drs : Sink
    unfinished : list of int
        Requests of the batch that are not completely answered, by channel.
    latencies : list of int
        Clocks from acceptance to data of the reads of the batch, in the order of the data.
    """

    def __init__(self, bench, model, *, idle=0.0, stall=0.0):
        self._bench = bench
        self.model = model
        self._rng = random.Random(f"host {SEED}")
        channels = [(partial(self._next, channel), partial(self._accepted, channel)) for channel in Channel]
        self.req, self.rwd = [bench.source(name, idle=idle, supply=supply, accepted=accepted)
                              for name, (supply, accepted) in zip(("m2s_req", "m2s_rwd"), channels)]
        self.ndr = bench.sink("s2m_ndr", stall=stall, take=self._take_ndr)
        self.drs = bench.sink("s2m_drs", stall=stall, take=self._take_drs)
        self.forget()

    def forget(self):
        """Drops the batch, for a reset."""
        self._offered = [None, None]
        self.unfinished = [0, 0]
        self.latencies = []
        self._outstanding = {}
        self._waiting = [[], []]

    @property
    def busy(self):
        return any(self.unfinished)

    async def submit(self, requests):
        """Sends the batch `requests` (`REQUEST`, (n,)) and waits until everything is answered, and rightly."""
        self.begin(requests)
        await self.finish()

    def begin(self, requests):
        """Starts a batch; the agents do the rest as clocks pass."""
        assert not self.busy
        self._requests, self._expected = requests, self.model.submit(requests)
        self._pages = (requests["address"] >> PAGE_BITS).tolist()
        self._channels = requests["channel"].tolist()
        self._left = requests["expect"].tolist()
        self._finished = Counter()
        self._needs = []
        self._accepted_at = {}
        self.latencies = []
        self._waiting = [[], []]
        seen = Counter()
        for index, (page, channel) in enumerate(zip(self._pages, self._channels)):
            self._needs.append(seen[page, 1 - channel])
            seen[page, channel] += 1
            self._waiting[channel].append(index)
        for waiting in self._waiting:
            waiting.reverse()
        self.unfinished = [len(waiting) for waiting in self._waiting]

    async def finish(self):
        """Waits for the end of the batch."""
        await self._bench.until(lambda: not self.busy, REQUEST_CLOCKS * (1 + sum(self.unfinished)),
                                "the end of a batch")
        assert not self._outstanding

    def _next(self, channel):
        waiting = self._waiting[channel]
        if not waiting:
            return None
        index = waiting[-1]
        if self._finished[self._pages[index], 1 - channel] < self._needs[index]:
            return None
        waiting.pop()
        while (tag := self._rng.randrange(TAGS)) in self._outstanding:
            pass
        self._outstanding[tag] = index
        self._offered[channel] = tag
        return self._pack(channel, self._requests[index], tag)

    def _pack(self, channel, request, tag):
        common = {name: int(request[name]) for name in ("opcode", "snp_type", "meta_field", "meta_value",
                                                        "traffic_class", "ld_id")}
        address = int(request["address"])
        if channel == Channel.REQ:
            # Both halves of a line are the line.
            return REQ.pack(tag=tag, address=address >> 5 | self._rng.getrandbits(1), **common)
        return RWD.pack(tag=tag, address=address >> 6, poison=int(request["poison"]),
                        data=int.from_bytes(request["data"].tobytes(), "little"),
                        byte_enable=int(request["byte_enable"]), **common)

    def _accepted(self, channel, _):
        tag = self._offered[channel]
        index = self._outstanding[tag]
        self._accepted_at[index] = self._bench.clock
        if self._left[index] == Expect.NONE:
            self._finish(index, tag)

    def _finish(self, index, tag):
        del self._outstanding[tag]
        channel = self._channels[index]
        self._finished[self._pages[index], channel] += 1
        self.unfinished[channel] -= 1

    def _answered(self, kind, response):
        """Finds the request of a response, and checks what all responses have. Returns (index, expected)."""
        tag = response["tag"]
        assert tag in self._outstanding, f"a response with the unknown tag {tag}"
        index = self._outstanding[tag]
        request, expected = self._requests[index], self._expected[index]
        assert index in self._accepted_at and self._left[index] & kind, f"{kind!r} of {request}"
        assert response["ld_id"] == request["ld_id"], f"LD-ID of {request}"
        assert response["meta_field"] == MetaField.NO_OP and response["meta_value"] == 0
        self._left[index] &= ~kind
        if not self._left[index]:
            self._finish(index, tag)
        return index, expected

    def _take_ndr(self, payload):
        response = NDR.unpack(payload)
        index, expected = self._answered(Expect.NDR, response)
        assert response["opcode"] == expected["ndr_opcode"], f"opcode for {self._requests[index]}"

    def _take_drs(self, payload):
        response = DRS.unpack(payload)
        index, expected = self._answered(Expect.DRS, response)
        self.latencies.append(self._bench.clock - self._accepted_at[index])
        data = int.from_bytes(expected["data"].tobytes(), "little")
        got = response["opcode"], response["poison"], response["data"]
        assert got == (expected["drs_opcode"], expected["poison"], data), \
            f"operation {index}, {self._requests[index]}: {response}, not {expected}"
