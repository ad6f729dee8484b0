"""The CXL.mem endpoint: messages of the host in, messages of the device out."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.cache.messages import CacheOp, CacheRequest, PrefetchProposal, ReadResponse, Source, WriteResponse
from speckv_hw.config import DeviceConfig
from speckv_hw.cxl.messages import Drs, Ndr, Req, RwD
from speckv_hw.stream import Arbiter, BypassFifo, Fifo, Register, Stage, chain, transfer
from speckv_hw.table.context import lookup_layout, result_layout
from speckv_hw.types import (
    LINE_BITS,
    PAGE_WIDTH,
    DevLoad,
    DrsOpcode,
    ErrorKind,
    ErrorRecord,
    MetaField,
    MetaValue,
    NdrOpcode,
    ReqOpcode,
    RwdOpcode,
    StreamInfo,
)

__all__ = ["Endpoint", "EndpointEvents", "Access", "RWD_ROOM"]

RWD_ROOM = 17
"""RwD that wait in the queue, at most: as many as one row of small memories holds, and one at the exit."""


class EndpointEvents(data.Struct):
    """Pulses for the counters, and the latency of the read that is answered in this clock."""
    read: 1
    write: 1
    partial_write: 1
    hint: 1
    invalidate: 1
    other: 2
    answered: 1
    latency: 16
    """Clocks from the acceptance of the read; valid with `answered`."""


class Access(data.Struct):
    """A request on its way through the context table."""
    data: LINE_BITS
    byte_enable: 64
    op: CacheOp
    is_hint: 1
    is_command: 1
    """It comes from the command engine, about a page of the stream `command_stream`."""
    command_stream: StreamInfo
    in_window: 1
    line: 6
    poison: 1
    source: Source


class _TimedReq(data.Struct):
    req: Req
    time: 16


class _DecodedReq(data.Struct):
    """A Req with all that is to be known of it before it takes its turn.

    None of the first three: its opcode is unknown.
    """
    is_read: 1
    is_hint: 1
    is_invalidate: 1
    opcode: ReqOpcode
    page: PAGE_WIDTH
    line: 6
    in_window: 1
    source: Source


class _TimedRwD(data.Struct):
    rwd: RwD
    time: 16


class Endpoint(wiring.Component):
    """Takes M2S Req and RwD, sends S2M NDR and DRS, and turns reads and writes into requests of the page cache.

    Each channel has its own queue in, and its own room for answers out, reserved before a request goes on: what one
    channel waits for on the host's side never holds up the other. Requests of a channel take effect in order; between
    the channels the arbiter takes turns. Tag and LD-ID come back as they came. Answers carry MetaField No-Op and, as
    DevLoad, how full the queue of reads is.

    An address outside the window, outside any context or in another owner's context: a read gets MemData-NXM (zeros),
    a write is completed without effect; both are logged. Opcodes that are not known get a completion and are logged.

    Source: CXL 2.0 sections 3.3 and 8.2.5.12 (HDM decoder).

    Parameters
    ----------
    config : DeviceConfig
        `requests_in_flight` Req wait in the queue, and up to 32 RwD. As many more of each channel may be on their way
        behind it, since for so many responses of each kind and channel there is room.

    Members
    -------
    m2s_req, m2s_rwd : In(stream)
    s2m_ndr, s2m_drs : Out(stream)
    hdm_base : In
        Host address of the window's first byte, committed.
    enable : In
        While low, every address is outside.
    lookup, result : to and from the context table, with `Access` as sideband
    command : In(stream of CacheRequest)
        Operations on pages. They go through the context table too, unlooked at, so that one that comes after a change
        of the table also comes after every request that saw the table before.
    request : Out(stream of CacheRequest)
    read_response, write_response : In(stream), from the page cache
    hint : Out(stream of PrefetchProposal)
        Its consumer must always be ready.
    error : Out(stream of ErrorRecord)
    events : Out(EndpointEvents)
    """

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "m2s_req": In(stream.Signature(Req)),
            "m2s_rwd": In(stream.Signature(RwD)),
            "s2m_ndr": Out(stream.Signature(Ndr)),
            "s2m_drs": Out(stream.Signature(Drs)),
            "hdm_base": In(52),
            "enable": In(1),
            "lookup": Out(stream.Signature(lookup_layout(Access))),
            "result": In(stream.Signature(result_layout(Access))),
            "command": In(stream.Signature(CacheRequest)),
            "request": Out(stream.Signature(CacheRequest)),
            "read_response": In(stream.Signature(ReadResponse)),
            "write_response": In(stream.Signature(WriteResponse)),
            "hint": Out(stream.Signature(PrefetchProposal)),
            "error": Out(stream.Signature(ErrorRecord)),
            "events": Out(EndpointEvents),
        })

    def elaborate(self, platform):
        m = Module()
        self._clock = Signal(16)
        m.d.sync += self._clock.eq(self._clock + 1)
        self._load = Signal(DevLoad)
        self._unknown_req = Signal()
        m.submodules.errors = errors = Arbiter(ErrorRecord, 3)
        chain(m, errors, self.error)
        # Stages, because whoever logs an error must know that it can before it offers it.
        self._req_error, self._rwd_error, self._outside_error = [
            self._stage(m, name, ErrorRecord, port)
            for name, port in zip(("req_error", "rwd_error", "outside_error"), errors.inputs)]

        self._build_answers(m)
        m.submodules.accesses = accesses = Arbiter(lookup_layout(Access), 3)
        self._take_reqs(m, accesses.i0)
        self._take_rwds(m, accesses.i1)
        self._take_commands(m, accesses.i2)
        m.submodules.access_stage = access_stage = Stage(lookup_layout(Access))
        chain(m, accesses, access_stage, self.lookup)
        self._route(m)
        return m

    def _stage(self, m, name, shape, sink):
        """A register stage before `sink`, so that its `ready` depends on nothing that this clock decides."""
        m.submodules[name] = stage = Stage(shape)
        chain(m, stage, sink)
        return stage.i

    # Towards the host

    def _build_answers(self, m):
        """Queues of answers. A place is reserved for each before its request goes on, so none of them is ever full."""
        room = self._config.requests_in_flight
        m.submodules.drs = drs = BypassFifo(Drs, room)
        m.submodules.req_ndr = req_ndr = Fifo(Ndr, room)
        m.submodules.rwd_ndr = rwd_ndr = Fifo(Ndr, room)
        m.submodules.ndrs = ndrs = Arbiter(Ndr, 2)
        chain(m, req_ndr, ndrs.i0)
        chain(m, rwd_ndr, ndrs.i1)
        chain(m, ndrs, self.s2m_ndr)
        chain(m, drs, self.s2m_drs)
        self._drs_room = self._reserve(m, "drs", drs)
        self._req_ndr_room = self._reserve(m, "req_ndr", req_ndr)
        self._rwd_ndr_room = self._reserve(m, "rwd_ndr", rwd_ndr)

        sources = {}
        for name in ("outside_read", "outside_write", "completed_req", "completed_rwd"):
            m.submodules[name] = stage = Stage(Source)
            sources[name] = stage
        self._outside_read, self._outside_write, self._completed_req, self._completed_rwd = [
            stage.i for stage in sources.values()]

        m.submodules.reads = reads = Arbiter(ReadResponse, 2)
        chain(m, self.read_response, reads.i0)
        m.submodules.writes = writes = Arbiter(Source, 3)
        chain(m, sources["outside_write"], writes.i1)
        chain(m, sources["completed_rwd"], writes.i2)
        completed_req = sources["completed_req"].o

        source = reads.o.p.source
        completes = reads.o.valid & source.completes
        completion = Signal(Source)
        m.d.comb += [
            reads.i1.p.source.eq(sources["outside_read"].o.payload),
            reads.i1.valid.eq(sources["outside_read"].o.valid),
            sources["outside_read"].o.ready.eq(reads.i1.ready),
            writes.i0.payload.eq(self.write_response.p.source),
            writes.i0.valid.eq(self.write_response.valid),
            self.write_response.ready.eq(writes.i0.ready),

            reads.o.ready.eq(1),
            drs.i.valid.eq(reads.o.valid),
            drs.i.p.data.eq(reads.o.p.data),
            drs.i.p.poison.eq(reads.o.p.poison),
            drs.i.p.opcode.eq(Mux(reads.port == 0, DrsOpcode.MEM_DATA, DrsOpcode.MEM_DATA_NXM)),
            self._address_answer(drs.i.p, source),
            self.events.answered.eq(reads.o.valid),
            self.events.latency.eq(self._clock - source.time),

            completion.eq(Mux(completes, source, completed_req.payload)),
            completed_req.ready.eq(~completes),
            req_ndr.i.valid.eq(completes | completed_req.valid),
            req_ndr.i.p.opcode.eq(completion.completion),
            self._address_answer(req_ndr.i.p, completion),
            writes.o.ready.eq(1),
            rwd_ndr.i.valid.eq(writes.o.valid),
            rwd_ndr.i.p.opcode.eq(NdrOpcode.CMP),
            self._address_answer(rwd_ndr.i.p, writes.o.payload),
        ]

    def _reserve(self, m, name, answers):
        """Counts the places of a queue of answers: whether one is free, and the signal that takes it."""
        most = self._config.requests_in_flight
        room = Signal(range(most + 1), init=most, name=f"{name}_room")
        taken = Signal(name=f"{name}_taken")
        m.d.sync += room.eq(room + transfer(answers.o) - taken)
        return room != 0, taken

    def _address_answer(self, answer, source):
        return [
            answer.tag.eq(source.tag),
            answer.ld_id.eq(source.ld_id),
            answer.meta_field.eq(MetaField.NO_OP),
            answer.meta_value.eq(MetaValue.INVALID),
            answer.dev_load.eq(self._load),
        ]

    # From the host

    def _locate(self, address):
        """Of the host line number `address`: window page, line in it, and whether it is in the window at all."""
        lines = self._config.window_bits - 6
        offset = (address - self.hdm_base[6:])[:46]
        return offset[6:lines], offset[:6], ~offset[lines:].any() & self.enable

    def _take_reqs(self, m, access):
        depth = self._config.requests_in_flight
        # The queue is passed by where it is empty, which pays for the stage behind it.
        m.submodules.req_queue = queue = BypassFifo(_TimedReq, depth)
        quarter = depth // 4
        m.d.comb += [
            queue.i.p.req.eq(self.m2s_req.payload),
            queue.i.p.time.eq(self._clock),
            queue.i.valid.eq(self.m2s_req.valid),
            self.m2s_req.ready.eq(queue.i.ready),
        ]
        m.d.sync += self._load.eq(Mux(queue.level < quarter, DevLoad.LIGHT,
                                      Mux(queue.level < 2 * quarter, DevLoad.OPTIMAL,
                                          Mux(queue.level < 3 * quarter, DevLoad.MODERATE, DevLoad.SEVERE))))
        m.submodules.req_stage = stage = Stage(_DecodedReq)
        self._decode_req(m, queue.o.p, stage.i.p)
        m.d.comb += [stage.i.valid.eq(queue.o.valid), queue.o.ready.eq(stage.i.ready)]

        req, source = stage.o.p, stage.o.p.source
        has_drs, take_drs = self._drs_room
        has_ndr, take_ndr = self._req_ndr_room
        unknown = ~(req.is_read | req.is_hint | req.is_invalidate)
        error = self._req_error
        m.d.comb += [
            access.p.ld_id.eq(source.ld_id),
            access.p.page.eq(req.page),
            access.p.sideband.line.eq(req.line),
            access.p.sideband.in_window.eq(req.in_window),
            access.p.sideband.is_hint.eq(req.is_hint),
            access.p.sideband.source.eq(source),
            self._completed_req.payload.eq(source),
            error.p.kind.eq(ErrorKind.BAD_REQ_OPCODE),
            error.p.address.eq(Cat(Signal(6), req.line, req.page)),
            error.p.detail.eq(req.opcode),
            take_drs.eq(transfer(access) & req.is_read),
            take_ndr.eq((transfer(access) & source.completes) | transfer(self._completed_req)),
            self.events.read.eq(transfer(stage.o) & req.is_read),
            self.events.hint.eq(transfer(stage.o) & req.is_hint),
            self.events.invalidate.eq(transfer(stage.o) & req.is_invalidate),
            self._unknown_req.eq(transfer(stage.o) & unknown),
        ]
        with m.If(req.is_read):
            m.d.comb += [
                access.valid.eq(stage.o.valid & has_drs & (has_ndr | ~source.completes)),
                stage.o.ready.eq(transfer(access)),
            ]
        with m.Elif(req.is_hint):
            m.d.comb += [access.valid.eq(stage.o.valid), stage.o.ready.eq(access.ready)]
        with m.Else():
            m.d.comb += [
                self._completed_req.valid.eq(stage.o.valid & has_ndr & (~unknown | error.ready)),
                error.valid.eq(unknown & stage.o.valid & has_ndr & self._completed_req.ready),
                stage.o.ready.eq(transfer(self._completed_req)),
            ]

    def _decode_req(self, m, timed, decoded):
        req, source = timed.req, decoded.source
        page, line, in_window = self._locate(req.address[1:])
        m.d.comb += [
            decoded.is_read.eq(req.is_read()),
            decoded.is_hint.eq(req.is_hint()),
            decoded.is_invalidate.eq(req.is_invalidate()),
            decoded.opcode.eq(req.opcode),
            decoded.page.eq(page),
            decoded.line.eq(line),
            decoded.in_window.eq(in_window),
            source.tag.eq(req.tag),
            source.ld_id.eq(req.ld_id),
            source.time.eq(timed.time),
            source.completes.eq(req.is_read() & req.wants_state()),
            source.completion.eq(NdrOpcode.CMP),
        ]
        with m.If((req.is_read() | req.is_invalidate()) & (req.meta_field == MetaField.META0_STATE)):
            with m.Switch(req.meta_value):
                with m.Case(MetaValue.ANY):
                    m.d.comb += source.completion.eq(NdrOpcode.CMP_E)
                with m.Case(MetaValue.SHARED):
                    m.d.comb += source.completion.eq(NdrOpcode.CMP_S)

    def _take_rwds(self, m, access):
        m.submodules.rwd_queue = queue = Fifo(_TimedRwD, min(self._config.requests_in_flight, RWD_ROOM))
        m.d.comb += [
            queue.i.p.rwd.eq(self.m2s_rwd.payload),
            queue.i.p.time.eq(self._clock),
            queue.i.valid.eq(self.m2s_rwd.valid),
            self.m2s_rwd.ready.eq(queue.i.ready),
        ]
        rwd, source = queue.o.p.rwd, Signal(Source)
        has_ndr, take_ndr = self._rwd_ndr_room
        error = self._rwd_error
        completed = self._completed_rwd
        page, line, in_window = self._locate(rwd.address)
        m.d.comb += [
            source.channel.eq(1),
            source.tag.eq(rwd.tag),
            source.ld_id.eq(rwd.ld_id),
            source.time.eq(queue.o.p.time),
            access.p.ld_id.eq(rwd.ld_id),
            access.p.sideband.op.eq(CacheOp.WRITE),
            access.p.sideband.data.eq(rwd.data),
            access.p.sideband.byte_enable.eq(Mux(rwd.is_partial(), rwd.byte_enable, ~0)),
            access.p.sideband.poison.eq(rwd.poison),
            access.p.sideband.source.eq(source),
            access.p.page.eq(page),
            access.p.sideband.line.eq(line),
            access.p.sideband.in_window.eq(in_window),
            completed.payload.eq(source),
            error.p.kind.eq(ErrorKind.BAD_RWD_OPCODE),
            error.p.address.eq(Cat(Signal(6), line, page)),
            error.p.detail.eq(rwd.opcode),
            take_ndr.eq(transfer(queue.o)),
            self.events.write.eq(transfer(queue.o) & (rwd.opcode == RwdOpcode.MEM_WR)),
            self.events.partial_write.eq(transfer(queue.o) & rwd.is_partial()),
            self.events.other.eq(self._unknown_req + (transfer(queue.o) & ~rwd.is_write())),
        ]
        with m.If(rwd.is_write()):
            m.d.comb += [access.valid.eq(queue.o.valid & has_ndr), queue.o.ready.eq(transfer(access))]
        with m.Else():
            m.d.comb += [
                completed.valid.eq(queue.o.valid & has_ndr & error.ready),
                error.valid.eq(queue.o.valid & has_ndr & completed.ready),
                queue.o.ready.eq(transfer(completed)),
            ]

    def _take_commands(self, m, access):
        m.d.comb += [
            access.p.page.eq(self.command.p.page),
            access.p.sideband.op.eq(self.command.p.op),
            access.p.sideband.is_command.eq(1),
            access.p.sideband.command_stream.eq(self.command.p.stream),
            access.valid.eq(self.command.valid),
            self.command.ready.eq(access.ready),
        ]

    # Between the context table and the page cache

    def _route(self, m):
        """Sends what is inside a context to the page cache or the prefetcher, and answers what is outside."""
        found, access = self.result.p, self.result.p.sideband
        inside = (found.hit & access.in_window) | access.is_command
        is_write = access.op == CacheOp.WRITE
        error, outside_read, outside_write = self._outside_error, self._outside_read, self._outside_write
        # The page cache takes requests into a stage, so that its `ready` comes early.
        m.submodules.request_stage = request = Register(CacheRequest)
        chain(m, request, self.request)
        m.d.comb += [
            request.i.p.data.eq(access.data),
            request.i.p.byte_enable.eq(access.byte_enable),
            request.i.p.op.eq(access.op),
            request.i.p.page.eq(found.page),
            request.i.p.line.eq(access.line),
            request.i.p.stream.eq(Mux(access.is_command, access.command_stream, found.stream)),
            request.i.p.poison.eq(access.poison),
            request.i.p.source.eq(access.source),
            self.hint.p.page.eq(found.page),
            self.hint.p.stream.eq(found.stream),
            outside_read.payload.eq(access.source),
            outside_write.payload.eq(access.source),
            error.p.kind.eq(Mux(is_write, ErrorKind.WRITE_OUTSIDE, ErrorKind.READ_OUTSIDE)),
            error.p.address.eq(Cat(Signal(6), access.line, found.page)),
            error.p.detail.eq(access.source.tag),
        ]
        with m.If(access.is_hint):
            m.d.comb += [self.hint.valid.eq(self.result.valid & inside), self.result.ready.eq(1)]
        with m.Elif(inside):
            m.d.comb += [request.i.valid.eq(self.result.valid), self.result.ready.eq(request.i.ready)]
        with m.Elif(is_write):
            m.d.comb += [
                outside_write.valid.eq(self.result.valid & error.ready),
                error.valid.eq(self.result.valid & outside_write.ready),
                self.result.ready.eq(error.ready & outside_write.ready),
            ]
        with m.Else():
            m.d.comb += [
                outside_read.valid.eq(self.result.valid & error.ready),
                error.valid.eq(self.result.valid & outside_read.ready),
                self.result.ready.eq(error.ready & outside_read.ready),
            ]
