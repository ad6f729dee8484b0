"""A device with the ports of the real one that stores every line as it is: soon built, and able to misbehave.

It exercises the link, the harness and its DRAM model, not the device.
"""

import enum

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.csr.mmio import MmioRequest, MmioResponse
from speckv_hw.cxl.messages import Drs, Ndr, Req, RwD
from speckv_hw.generate import verilog_of
from speckv_hw.mem.axi4 import LINE_SIZE, Axi4Signature, Burst
from speckv_hw.stream import Arbiter, Fifo, Stage, chain, transfer
from speckv_hw.types import MetaField, NdrOpcode
from speckv_sim.build import build_verilog

DEPTH = 64


class Mode(enum.IntEnum):
    """How the device misbehaves: written to the MMIO register `MODE`."""
    WELL = 0
    SWALLOW = 1
    """Takes requests and answers none."""
    REFUSE = 2
    """Takes no request."""
    TWICE = 3
    """Answers every write twice."""
    CROSS = 4
    """Reads with bursts that cross 4 KiB."""
    WITHDRAW = 5
    """Offers read data only in every second clock."""
    MUTE = 6
    """Answers no MMIO request any more."""


MODE = 0x00
CLOCKS = 0x08
SCRATCH = 0x10


class LoopbackDevice(wiring.Component):
    """Line address -> DRAM line, modulo the size of DRAM rounded down to a power of two.

    A write is one burst of one beat; so is a read. Reads and writes do not wait for each other, and each kind
    is answered in order, so only the link's ordering rule keeps a read behind a write.
    """

    def __init__(self, config):
        self._line_bits = config.dram_bytes.bit_length() - 1 - 6
        super().__init__({
            "m2s_req": In(stream.Signature(Req)),
            "m2s_rwd": In(stream.Signature(RwD)),
            "s2m_ndr": Out(stream.Signature(Ndr)),
            "s2m_drs": Out(stream.Signature(Drs)),
            "mmio_request": In(stream.Signature(MmioRequest)),
            "mmio_response": Out(stream.Signature(MmioResponse)),
            "axi": Out(Axi4Signature(config.dram_address_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        registers = Array(Signal(64, name=f"register{i}") for i in range(4))
        mode = registers[MODE // 8]
        m.d.sync += registers[CLOCKS // 8].eq(registers[CLOCKS // 8] + 1)
        self._mmio(m, registers, mode)

        m.submodules.reads = reads = Fifo(Req, DEPTH)
        m.submodules.addresses = addresses = Stage(self._line_bits)
        open_ = Signal()
        swallow = Signal()
        m.d.comb += [open_.eq(mode != Mode.REFUSE), swallow.eq(mode == Mode.SWALLOW)]

        req = self.m2s_req
        m.d.comb += [
            req.ready.eq(open_ & reads.i.ready & addresses.i.ready),
            reads.i.payload.eq(req.payload),
            reads.i.valid.eq(transfer(req) & ~req.payload.is_hint() & ~swallow),
            addresses.i.payload.eq(req.payload.address >> 1),
            addresses.i.valid.eq(transfer(req) & req.payload.is_read() & ~swallow),
            self.axi.araddr.eq(addresses.o.payload << 6),
            self.axi.arvalid.eq(addresses.o.valid),
            self.axi.arlen.eq((mode == Mode.CROSS) * 63),
            self.axi.arsize.eq(LINE_SIZE),
            self.axi.arburst.eq(Burst.INCR),
            addresses.o.ready.eq(self.axi.arready & self.axi.arvalid),
        ]
        write_tags = self._writes(m, open_, swallow)
        self._answers(m, mode, reads, write_tags)
        return m

    def _mmio(self, m, registers, mode):
        request, response = self.mmio_request, self.mmio_response
        register = registers[request.payload.address[3:5]]
        m.d.comb += request.ready.eq((~response.valid | response.ready) & (mode != Mode.MUTE))
        with m.If(response.ready):
            m.d.sync += response.valid.eq(0)
        with m.If(transfer(request)):
            m.d.sync += [response.valid.eq(1), response.payload.data.eq(register)]
            with m.If(request.payload.write):
                m.d.sync += register.eq(request.payload.data)

    def _writes(self, m, open_, swallow):
        rwd, axi = self.m2s_rwd, self.axi
        m.submodules.write_addresses = addresses = Stage(self._line_bits)
        m.submodules.write_data = write_data = Fifo(RwD, 4)
        m.submodules.write_tags = write_tags = Fifo(RwD, DEPTH)
        parts = addresses, write_data, write_tags
        m.d.comb += [
            rwd.ready.eq(open_ & addresses.i.ready & write_data.i.ready & write_tags.i.ready),
            *(part.i.valid.eq(transfer(rwd) & ~swallow) for part in parts),
            addresses.i.payload.eq(rwd.payload.address),
            write_data.i.payload.eq(rwd.payload),
            write_tags.i.payload.eq(rwd.payload),
            axi.awvalid.eq(addresses.o.valid),
            axi.awaddr.eq(addresses.o.payload << 6),
            axi.awid.eq(1),
            axi.awsize.eq(LINE_SIZE),
            axi.awburst.eq(Burst.INCR),
            addresses.o.ready.eq(axi.awready),
            axi.wvalid.eq(write_data.o.valid),
            axi.wdata.eq(write_data.o.payload.data),
            axi.wstrb.eq(write_data.o.payload.byte_enable),
            axi.wlast.eq(1),
            write_data.o.ready.eq(axi.wready),
        ]
        return write_tags

    def _answers(self, m, mode, reads, write_tags):
        drs, axi = self.s2m_drs, self.axi
        m.submodules.completions = completions = Arbiter(Ndr, 2)
        chain(m, completions, self.s2m_ndr)
        of_read, of_write = completions.inputs
        request, write = reads.o.payload, write_tags.o.payload
        wants_ndr = Signal()
        wants_drs = Signal()
        ndr_done = Signal()
        drs_done = Signal()
        again = Signal()
        odd = Signal()
        shown = Signal()
        m.d.sync += odd.eq(~odd)
        m.d.comb += [
            shown.eq((mode != Mode.WITHDRAW) | odd),
            wants_drs.eq(request.is_read()),
            wants_ndr.eq(~request.is_read() | request.wants_state()),
            drs.valid.eq(reads.o.valid & wants_drs & ~drs_done & axi.rvalid & shown),
            drs.payload.data.eq(axi.rdata),
            drs.payload.meta_field.eq(MetaField.NO_OP),
            drs.payload.tag.eq(request.tag),
            drs.payload.poison.eq(axi.rresp != 0),
            drs.payload.ld_id.eq(request.ld_id),
            axi.rready.eq(drs.valid & drs.ready),

            of_read.valid.eq(reads.o.valid & wants_ndr & ~ndr_done),
            of_read.payload.opcode.eq(NdrOpcode.CMP_E),
            of_read.payload.meta_field.eq(MetaField.NO_OP),
            of_read.payload.tag.eq(request.tag),
            of_read.payload.ld_id.eq(request.ld_id),
            reads.o.ready.eq((ndr_done | ~wants_ndr | transfer(of_read)) &
                             (drs_done | ~wants_drs | transfer(drs))),

            of_write.valid.eq(axi.bvalid & write_tags.o.valid),
            of_write.payload.opcode.eq(NdrOpcode.CMP),
            of_write.payload.meta_field.eq(MetaField.NO_OP),
            of_write.payload.tag.eq(write.tag),
            of_write.payload.ld_id.eq(write.ld_id),
            axi.bready.eq(transfer(of_write) & (again | (mode != Mode.TWICE))),
            write_tags.o.ready.eq(axi.bready),
        ]
        with m.If(transfer(of_write)):
            m.d.sync += again.eq(~again)
        with m.If(transfer(reads.o)):
            m.d.sync += [ndr_done.eq(0), drs_done.eq(0)]
        with m.Else():
            m.d.sync += [ndr_done.eq(ndr_done | transfer(of_read)), drs_done.eq(drs_done | transfer(drs))]


def loopback_executable(config):
    """Path of the executable that simulates a `LoopbackDevice`."""
    return build_verilog(verilog_of(config, LoopbackDevice(config)))
