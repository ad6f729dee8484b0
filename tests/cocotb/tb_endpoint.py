"""Random traffic to endpoint and context table; see test_endpoint.py."""

from collections import Counter

import cocotb
import numpy as np
from bench import Bench, Packing
from cxl_host import CxlHost
from cxl_traffic import Traffic
from runner import SEED, parameters

from speckv_hw.cache.messages import CacheOp, CacheRequest, PrefetchProposal, ReadResponse, WriteResponse
from speckv_hw.table.context import ContextOp, ContextOpKind, ContextRecord
from speckv_hw.types import ErrorRecord, StreamInfo
from speckv_model.config import DeviceConfig
from speckv_model.constants import LINE_BYTES, Codec, Dtype
from speckv_model.cxl.endpoint import Endpoint
from speckv_model.table import context as model

REQUEST, READ, WRITE, OPERATION, RECORD, ERROR, HINT, STREAM = map(Packing, (
    CacheRequest, ReadResponse, WriteResponse, ContextOp, ContextRecord, ErrorRecord, PrefetchProposal, StreamInfo))
SWEEP_CLOCKS = 2000
BATCHES, RUNS = 4, 12
HDM_BASE = 0x3456_7000_0000
ADDRESS_MASK = np.uint64(2**52 - 1)
STREAMS = ((Codec.RAW, Dtype.FP16, 3), (Codec.SPECKV, Dtype.FP16, 0), (Codec.VARIABLE, Dtype.BF16, 15))


class Lines:
    """Content of lines by (page, line), each an int and whether it is poisoned; zeros at first."""

    def __init__(self):
        self._lines = {}

    def read(self, page, line):
        return self._lines.get((page, line), (0, 0))

    def write(self, page, line, data, enable, poison):
        mask = int.from_bytes(bytes(255 * (enable >> n & 1) for n in range(LINE_BYTES)), "little")
        old, was_poison = self.read(page, line)
        self._lines[page, line] = (old, 1) if poison else (old & ~mask | data & mask, was_poison)


class ModelWorld:
    """What the model of the endpoint has behind it: page cache, prefetcher, registers and error log."""

    def __init__(self):
        self._lines = Lines()
        self.hdm_base, self.hdm_committed = HDM_BASE, True
        self.counters = self.errors = self
        self.recorded, self.hinted = Counter(), Counter()

    def add(self, name, count):
        pass

    def record(self, kind, address, detail=0):
        self.recorded[int(kind), address] += 1

    def hint(self, page, stream):
        self.hinted[page, stream.context, int(stream.codec), int(stream.dtype)] += 1

    def read(self, page, stream, lines):
        found = [self._lines.read(page, line) for line in lines.tolist()]
        data = b"".join(value.to_bytes(LINE_BYTES, "little") for value, _ in found)
        return (np.frombuffer(data, np.uint8).reshape(-1, LINE_BYTES), np.array([poison for _, poison in found]))

    def write(self, page, stream, lines, data, byte_enable):
        for line, value, enable in zip(lines.tolist(), data, byte_enable.tolist()):
            self._lines.write(page, line, int.from_bytes(value.tobytes(), "little"), enable, False)

    def write_poison(self, page, stream, lines):
        for line in lines.tolist():
            self._lines.write(page, line, 0, 0, True)


class EndpointBench:
    """Endpoint and context table with a host on one side and a page cache on the other."""

    def __init__(self, dut, *, idle, stall):
        config = DeviceConfig.from_dict(parameters()["config"])
        self.bench = bench = Bench(dut)
        self.dut = dut
        self.rng = np.random.default_rng([SEED, int(10 * idle), int(10 * stall)])
        self.world = ModelWorld()
        self.table = model.ContextTable(config)
        self.traffic = Traffic(config, self.rng)
        self._config = config
        self._lines = Lines()
        self.recorded, self.hinted = Counter(), Counter()
        self.host = CxlHost(bench, Endpoint(config, self.table, self.world, self.world, self.world), idle=idle,
                            stall=stall)
        self._manage, self._managed = bench.source("manage", idle=idle), bench.sink("managed", stall=stall)
        self._reads, self._writes = bench.source("read_response", idle=0.3), bench.source("write_response", idle=0.3)
        self._sinks = [bench.sink("request", stall=0.2, take=self._request), bench.sink("hint", take=self._hint),
                       bench.sink("error", stall=stall, take=self._error)]

    async def start(self):
        self.dut.hdm_base.value = HDM_BASE
        self.dut.enable.value = 1
        await self.bench.start()
        await self.bench.until(lambda: self.dut.swept.value, SWEEP_CLOCKS, "the end of the sweep")

    async def create(self, number, codec, dtype, ld_id):
        """A context that ends in the middle of a granule."""
        context = self.traffic.context(number, codec, dtype, ld_id)
        pages = int(context.pages.max()) + 1 - context.first_page
        record = model.ContextRecord(ld_id=ld_id, first_page=context.first_page, pages=pages, dtype=dtype, codec=codec)
        fields = {name: getattr(record, name) for name in ("ld_id", "first_page", "pages", "dtype", "codec")}
        await self._do(ContextOpKind.PUT, context=number, record=RECORD.pack(valid=1, **fields))
        self.table.put(number, record)
        await self._put_slot(context, number)

    async def destroy(self, context):
        await self._put_slot(context, None)
        await self._do(ContextOpKind.PUT, context=context.number)
        self.table.put(context.number, None)
        self.traffic.contexts.remove(context)

    async def _put_slot(self, context, number):
        slot = context.first_page // self._config.granule_pages
        await self._do(ContextOpKind.PUT_SLOT, slot=slot, valid=int(number is not None), context=number or 0)
        self.table.put_slot(slot, number)

    async def _do(self, kind, **fields):
        self._manage.queue.append(OPERATION.pack(kind=kind.value, **fields))
        await self.bench.until(lambda: self._managed.queue, SWEEP_CLOCKS, "a reply to management")
        self._managed.queue.clear()

    async def submit(self, requests):
        requests["address"] = requests["address"] + np.uint64(HDM_BASE) & ADDRESS_MASK
        await self.host.submit(requests)

    def _request(self, payload):
        request = REQUEST.unpack(payload)
        page, line = request["page"], request["line"]
        context = STREAM.unpack(request["stream"])
        record = self.table.record(context["context"])
        assert record.first_page <= page < record.end_page
        assert (context["codec"], context["dtype"]) == (record.codec, record.dtype)
        if request["op"] == CacheOp.READ.value:
            data, poison = self._lines.read(page, line)
            self._reads.queue.append(READ.pack(data=data, poison=poison, source=request["source"]))
        else:
            assert request["op"] == CacheOp.WRITE.value
            self._lines.write(page, line, request["data"], request["byte_enable"], request["poison"])
            self._writes.queue.append(WRITE.pack(source=request["source"]))

    def _hint(self, payload):
        hint = HINT.unpack(payload)
        stream = STREAM.unpack(hint["stream"])
        self.hinted[hint["page"], stream["context"], stream["codec"], stream["dtype"]] += 1

    def _error(self, payload):
        error = ERROR.unpack(payload)
        self.recorded[error["kind"], error["address"]] += 1

    async def end(self):
        """Everything that was logged and hinted must have come out, and nothing may be under way."""
        await self.bench.tick(200)
        assert self.recorded == self.world.recorded and self.hinted == self.world.hinted
        agents = (self.host.req, self.host.rwd, self.host.ndr, self.host.drs, self._reads, self._writes, *self._sinks)
        assert not any(agent.busy for agent in agents)


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.6], stall=[0.0, 0.6])
async def random_traffic(dut, idle, stall):
    """Batches between which contexts come and go; then the window is switched off."""
    endpoint = EndpointBench(dut, idle=idle, stall=stall)
    await endpoint.start()
    for number, stream in zip((0, 7, 15), STREAMS):
        await endpoint.create(number, *stream)
    for _ in range(BATCHES):
        await endpoint.submit(endpoint.traffic.batch(RUNS))
        old = endpoint.traffic.contexts[0]
        await endpoint.destroy(old)
        await endpoint.create(old.number, old.codec, old.dtype, (old.ld_id + 1) % 16)
    dut.enable.value = 0
    endpoint.world.hdm_committed = False
    await endpoint.submit(endpoint.traffic.everything())
    await endpoint.end()
    assert len(endpoint.world.recorded) > 100 and endpoint.world.hinted
    cocotb.log.info("%d clocks", endpoint.bench.clock)
