"""The whole device under random traffic; see test_device.py."""

import cocotb
import numpy as np
from axi_memory import AxiMemory
from bench import Bench
from cxl_traffic import Traffic
from device_host import DeviceHost
from runner import SEED, parameters

from speckv_hw.top import Device
from speckv_model.config import DeviceConfig
from speckv_model.constants import PAGE_LINES, Codec, Dtype, Opcode, Status
from speckv_model.csr.registers import REGISTERS
from speckv_model.cxl.messages import Channel

QUIET_CLOCKS = 200
BATCHES, RUNS = 10, 8
"""Batches of requests, and runs of requests in each."""
STREAMS = ((Codec.RAW, Dtype.FP16, 3), (Codec.SPECKV, Dtype.FP16, 0), (Codec.SPECKV, Dtype.BF16, 15),
           (Codec.RAW, Dtype.BF16, 3))
"""Codec, dtype and owner of the contexts."""
PAGE_COMMANDS = (Opcode.SEAL, Opcode.FLUSH, Opcode.FREE, Opcode.PREFETCH)
COUNTED = ("REQ_READS", "REQ_WRITES", "REQ_PARTIAL_WRITES", "REQ_HINTS", "REQ_INVALIDATES", "REQ_OTHER",
           "PAGES_OPENED", "PAGES_SEALED", "PAGES_FREED", "ERROR_COUNT")
"""Registers that depend on the order of the requests to each page only."""
EXERCISED = ("CACHE_HITS", "CACHE_MISSES", "PAGES_SPILLED", "PAGES_FETCHED", "PREFETCHES_USED", "TLB_HITS",
             "TLB_MISSES", "ERROR_COUNT")
"""Counters of what must have happened for the traffic to be worth something."""


class DeviceBench:
    """A device that is ready, its host and its memory."""

    def __init__(self, dut, *, idle=0.0, stall=0.0, pause=0.0, latency=(1, 60)):
        self.config = DeviceConfig.from_dict(parameters()["config"])
        self.bench = Bench(dut)
        self.memory = self.bench.add(AxiMemory(self.bench, self.config, latency=latency, pause=pause))
        self.host = DeviceHost(self.bench, self.config, idle=idle, stall=stall)
        self.rng = np.random.default_rng([SEED, int(100 * idle), int(100 * stall)])
        self.new_traffic()

    def new_traffic(self):
        self.traffic = Traffic(self.config, self.rng)

    async def start(self, contexts=0):
        """Resets; then every stream descriptor has a codec and there are `contexts` contexts."""
        await self.bench.start()
        await self.host.wait_until_ready()
        for command in self.traffic.load_descriptors():
            assert await self.host.command(**command) == Status.OK
        await self.create(contexts)

    async def create(self, contexts):
        numbers = self.rng.choice(self.free_contexts(), contexts, replace=False).tolist()
        for number, (codec, dtype, ld_id) in zip(numbers, STREAMS):
            context = self.traffic.context(number, codec, dtype, ld_id)
            assert await self.host.command(**self.traffic.create(context)) == Status.OK

    def free_contexts(self):
        """Numbers that no context has."""
        return np.setdiff1d(np.arange(self.config.contexts), [context.number for context in self.traffic.contexts])

    async def destroy(self, context):
        assert await self.host.command(opcode=Opcode.DESTROY, context=context.number) == Status.OK
        self.traffic.contexts.remove(context)

    async def end(self):
        """Destroys all contexts; then all of the pool must be free and nothing under way."""
        for context in list(self.traffic.contexts):
            await self.destroy(context)
        await self.host.compare("POOL_FREE_SECTORS")
        assert await self.host.mmio_read(REGISTERS.POOL_FREE_SECTORS.offset) == self.config.pool_sectors
        await self.bench.tick(QUIET_CLOCKS)
        host = self.host
        assert not any(agent.busy for agent in (self.memory, host.req, host.rwd, host.ndr, host.drs))


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.6], stall=[0.0, 0.6])
async def random_traffic(dut, idle, stall):
    """Batches on several contexts, with commands between them and contexts that come and go."""
    device = DeviceBench(dut, idle=idle, stall=stall, pause=0.2)
    await device.start(contexts=4)
    host, traffic = device.host, device.traffic
    count = 0
    for number in range(BATCHES):
        requests = traffic.batch(RUNS)
        count += len(requests)
        host.begin(requests)
        for _ in range(2):
            # These change nothing that a read returns, so they may come at any moment.
            assert await host.command(**traffic.page_command(Opcode.FLUSH, Opcode.PREFETCH)) == Status.OK
        await host.finish()
        for _ in range(3):
            assert await host.command(**traffic.page_command(*PAGE_COMMANDS)) == Status.OK
        if number == BATCHES // 2:
            await device.destroy(traffic.contexts[0])
            await device.create(1)
    await host.submit(traffic.everything())
    await device.end()
    await host.compare(*COUNTED)
    happened = {name: await host.counter(name) for name in EXERCISED}
    cocotb.log.info("%d requests in %d clocks; %s", count, device.bench.clock, happened)
    assert all(happened.values())

@cocotb.test()
async def latency_and_throughput_of_hits(dut):
    """A read of a cached page takes `Device.read_latency` clocks, many take a clock each."""
    device = DeviceBench(dut)
    await device.start(contexts=1)
    host, traffic = device.host, device.traffic
    context, = traffic.contexts
    page = context.pages[0]
    await host.submit(traffic.fill(context, page, PAGE_LINES - 1))
    for line in (0, 17, 62, 63):
        await device.bench.tick(5)
        await host.submit(traffic.reads(context, page, [line]))
        assert host.latencies == [Device.read_latency]
    begin = device.bench.clock
    await host.submit(traffic.reads(context, page, np.arange(PAGE_LINES)))
    assert device.bench.clock - begin <= PAGE_LINES + Device.read_latency + 2
    await device.end()


@cocotb.test()
@cocotb.parametrize(held=["drs", "ndr"])
async def channels_do_not_block_each_other(dut, held):
    """While the host takes no data, writes are completed; while it takes no completions, reads are answered."""
    device = DeviceBench(dut, pause=0.1)
    await device.start(contexts=2)
    host, traffic = device.host, device.traffic
    first, second = traffic.contexts
    await host.submit(traffic.fill(first, first.pages[0], PAGE_LINES - 1))
    reads = [traffic.reads(first, page, np.arange(PAGE_LINES)) for page in first.pages[[0, 0, 1, 0, 2]]]
    writes = [traffic.fill(second, page) for page in second.pages]
    sink, blocked, free = ((host.drs, Channel.REQ, Channel.RWD) if held == "drs" else
                           (host.ndr, Channel.RWD, Channel.REQ))
    sink.stall = 1.0
    host.begin(np.concatenate(reads + writes))
    await device.bench.until(lambda: not host.unfinished[free], 20_000, "the end of the other channel")
    await device.bench.tick(1000)
    assert sink.busy and host.unfinished[blocked] == len(reads if held == "drs" else writes) * PAGE_LINES
    sink.stall = 0.0
    await host.finish()
    await host.submit(traffic.everything())
    await device.end()


@cocotb.test()
async def reset_in_the_middle(dut):
    """Wherever it was, after a reset the device is empty and works."""
    device = DeviceBench(dut, idle=0.1, stall=0.1, pause=0.2)
    await device.start()
    host = device.host
    for _ in range(5):
        await device.create(3)
        host.begin(device.traffic.batch(3 * RUNS))
        await device.bench.tick(int(device.rng.integers(20, 1500)))
        if device.rng.random() < 0.5:
            free = device.free_contexts()[0]
            context = device.traffic.context(int(free), Codec.RAW, Dtype.FP16, 0)
            await host.submit_command(**device.traffic.create(context))
            await device.bench.tick(int(device.rng.integers(200)))
        assert host.busy
        await host.reset()
        old, device.traffic.contexts = device.traffic.contexts, []
        await host.compare("POOL_FREE_SECTORS", "COMMAND_HEAD", "COMMAND_TAIL", "HDM_CONTROL", *COUNTED)
        reads = [device.traffic.reads(context, page, [0, 63]) for context in old for page in context.pages]
        await host.submit(np.concatenate(reads))
        await host.compare("ERROR_COUNT")
    await device.create(4)
    await host.submit(device.traffic.batch(RUNS))
    await host.submit(device.traffic.everything())
    await device.end()
