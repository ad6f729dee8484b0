"""The page cache: every read and write of the host ends here."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.cache.line_store import LineStore
from speckv_hw.cache.messages import (
    CacheEvents,
    CacheOp,
    CacheRequest,
    PrefetchProposal,
    ReadResponse,
    SlotState,
    Source,
    WriteResponse,
)
from speckv_hw.cache.slot_table import SlotFlags, SlotTable, set_of
from speckv_hw.config import DeviceConfig
from speckv_hw.stream import Stage, chain, transfer
from speckv_hw.types import (
    LINE_BITS,
    ErrorKind,
    ErrorRecord,
    FetchDone,
    FetchJob,
    FillLine,
    OpenDone,
    OpenJob,
    OpenKind,
    PageState,
    SealDone,
    SealJob,
    SealKind,
    SlotLine,
)
from speckv_model.constants import PAGE_LINES, ROW_LINES

__all__ = ["PageCache"]


def _ones(bits):
    """How many of `bits` are set: a tree of adders, since Python's `sum` makes a chain of them."""
    counts = list(bits)
    while len(counts) > 1:
        counts = [left + right for left, right in zip(counts[::2], counts[1::2])] + counts[len(counts) & ~1:]
    return counts[0]


class PageCache(wiring.Component):
    """Decompressed pages on chip; answers reads and writes, and sends the movers to work on a miss.

    Of a page whose context says `by_row`, and that a read finds SEALED with rows that can be had alone, only the rows
    that are read are fetched; the first write fetches the rest.

    Requests take effect in the order in which they were accepted; responses of each kind keep that order. One request
    that hits is served a clock. A request whose page is not there or busy waits at the head of the line, and so do
    those behind it; prefetches use the clocks in which the head waits or nothing does. Sealing and fetching go on
    beside the requests. On reset the cache is empty.

    A page is here in one of the four states of a page; what a request does to it:

    ========  ===================  ==========================  ==========================================
    state     read                 write                       write of poison
    ========  ===================  ==========================  ==========================================
    EMPTY     zeros                opener makes it OPEN first  opener makes it POISONED
    OPEN      content, else zeros  stored; the 64th seals it   opener makes it POISONED
    SEALED    content              opener makes it OPEN first  opener makes it POISONED
    POISONED  poison               dropped, logged             dropped, logged
    ========  ===================  ==========================  ==========================================

    Where the opener refuses for want of room the write is dropped and logged.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    request : In(stream of CacheRequest)
    prefetch : In(stream of PrefetchProposal)
        Served when the requests leave a clock; dropped where it would displace an OPEN page or an unused prefetch.
    read_response, write_response : Out(stream)
        For READ and WRITE requests; the end of the other operations comes as `op_done`.
    op_done : Out(stream of Source)
    fetch_job, fetch_done, fill : to and from the fetcher
    open_job, open_done : to and from the opener
    seal_job, seal_done, seal_read, seal_data : to and from the sealer
    error : Out(stream of ErrorRecord)
    events : Out(CacheEvents)

    `latency` is the number of clocks from the acceptance of a read that hits to its response.
    """

    latency = 3

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "request": In(stream.Signature(CacheRequest)),
            "prefetch": In(stream.Signature(PrefetchProposal)),
            "read_response": Out(stream.Signature(ReadResponse)),
            "write_response": Out(stream.Signature(WriteResponse)),
            "op_done": Out(stream.Signature(Source)),
            "fetch_job": Out(stream.Signature(FetchJob)),
            "fetch_done": In(stream.Signature(FetchDone)),
            "fill": In(stream.Signature(FillLine)),
            "open_job": Out(stream.Signature(OpenJob)),
            "open_done": In(stream.Signature(OpenDone)),
            "seal_job": Out(stream.Signature(SealJob)),
            "seal_done": In(stream.Signature(SealDone)),
            "seal_read": In(stream.Signature(SlotLine)),
            "seal_data": Out(stream.Signature(LINE_BITS)),
            "error": Out(stream.Signature(ErrorRecord)),
            "events": Out(CacheEvents),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config

        m.submodules.slots = self._slots = SlotTable(config)
        m.submodules.lines = self._lines = lines = LineStore(config)
        m.submodules.head = head = Stage(data.StructLayout({"request": CacheRequest, "index": len(self._slots.index)}))
        m.d.comb += [
            head.i.p.request.eq(self.request.payload),
            head.i.p.index.eq(set_of(config, self.request.p.page)),
            head.i.valid.eq(self.request.valid),
            self.request.ready.eq(head.i.ready),
            self._slots.line.eq(head.o.p.request.line),
        ]
        chain(m, self.fill, lines.fill)
        chain(m, self.seal_read, lines.seal_read)
        chain(m, lines.seal_data, self.seal_data)

        # Everything that leaves does so through a register stage.
        self._out = {}
        for name, shape in (("fetch_job", FetchJob), ("open_job", OpenJob), ("seal_job", SealJob),
                            ("error", ErrorRecord), ("write_response", WriteResponse), ("op_done", Source)):
            m.submodules[f"{name}_stage"] = stage = Stage(shape)
            chain(m, stage, getattr(self, name))
            self._out[name] = stage.i
        self._connect_reads(m)

        self._request = request = head.o.p.request
        self._finish = head.o.ready
        # What the head of the line has already caused.
        self._missed = Signal()
        self._issued = Signal()
        self._refused = Signal()
        self._ended = Signal()
        self._spilling = Signal()
        with m.If(self._finish):
            m.d.sync += [self._missed.eq(0), self._issued.eq(0), self._refused.eq(0), self._ended.eq(0)]

        head_waited = Signal()
        m.d.sync += head_waited.eq(0)
        with m.If(self.fetch_done.valid):
            self._take_fetch(m)
        with m.Elif(self.seal_done.valid):
            self._take_seal(m)
        with m.Elif(self.open_done.valid):
            self._take_open(m)
        with m.Elif(self.prefetch.valid & (~head.o.valid | head_waited)):
            self._look_at(m, self.prefetch.p.page, set_of(config, self.prefetch.p.page))
            self._prefetch(m)
        with m.Elif(head.o.valid):
            self._look_at(m, request.page, head.o.p.index)
            m.d.sync += head_waited.eq(~self._finish)
            with m.Switch(request.op):
                with m.Case(CacheOp.READ):
                    self._read(m)
                with m.Case(CacheOp.WRITE):
                    self._write(m)
                with m.Case(CacheOp.SEAL):
                    self._seal(m)
                with m.Case(CacheOp.FREE):
                    self._free(m)
                with m.Case(CacheOp.FLUSH):
                    self._flush(m)
        return m

    def _connect_reads(self, m):
        """The second pipeline step of a read: data from the line store meets what was known of the line."""
        lines = self._lines
        m.submodules.read_stage = stage = Stage(ReadResponse)
        chain(m, stage, self.read_response)
        self._read_source = Signal(Source)
        self._read_holds = Signal()
        self._read_poison = Signal()
        m.d.comb += [
            stage.i.p.data.eq(Mux(self._read_holds & ~self._read_poison, lines.read_data.payload, 0)),
            stage.i.p.poison.eq(self._read_poison),
            stage.i.p.source.eq(self._read_source),
            stage.i.valid.eq(lines.read_data.valid),
            lines.read_data.ready.eq(stage.i.ready),
        ]

    def _look_at(self, m, page, index):
        m.d.comb += [self._slots.page.eq(page), self._slots.index.eq(index)]

    def _look_at_slot(self, m, slot):
        """Looks at the slot of an event; its answer overwrites the slot's state."""
        way_bits = (self._config.cache_ways - 1).bit_length()
        m.d.comb += [
            self._slots.index.eq(slot >> way_bits),
            self._slots.way.eq(slot & (self._config.cache_ways - 1)),
            self._slots.write_way.eq(self._slots.way),
            self._slots.write_slot.eq(self._slots.slot),
        ]

    def _slot_number(self, way):
        return (self._slots.index * self._config.cache_ways) | way

    def _mark(self, m, *, valid=1, busy=0, prefetched=0):
        m.d.comb += [
            self._slots.mark.eq(1),
            self._slots.mark_flags.eq(SlotFlags.const({"valid": valid, "busy": busy, "prefetched": 0})),
            self._slots.mark_flags.prefetched.eq(prefetched),
        ]

    # Answers of the movers

    def _take_fetch(self, m):
        done, slots = self.fetch_done.p, self._slots
        self._look_at_slot(m, done.slot)
        # The prefetched flag must survive, so only `busy` changes.
        m.d.comb += [
            self.fetch_done.ready.eq(1),
            slots.write.eq(1),
            slots.write_slot.state.eq(done.state),
            slots.write_slot.base.eq(done.base),
            slots.write_slot.written.eq(done.written),
            slots.write_slot.count.eq(_ones(done.written)),
            slots.write_slot.poison.eq(done.poison),
            self.events.fetched.eq(1),
        ]
        with m.If(done.single):
            m.d.comb += [
                slots.write_slot.written.eq(slots.slot.written | done.written),
                slots.write_slot.count.eq(slots.slot.count + ROW_LINES),
                slots.write_slot.poison.eq(slots.slot.poison | done.poison),
            ]
        self._mark(m, prefetched=slots.flags.prefetched)

    def _take_seal(self, m):
        done = self.seal_done.p
        self._look_at_slot(m, done.slot)
        self._mark(m, valid=0)
        m.d.comb += [
            self.seal_done.ready.eq(1),
            self.events.spilled.eq(done.kind == SealKind.SPILL),
            self.events.sealed.eq((done.kind == SealKind.SEAL) & (done.state == PageState.SEALED)),
        ]
        with m.If(done.kind == SealKind.SPILL):
            m.d.sync += self._spilling.eq(0)

    def _take_open(self, m):
        done, slots = self.open_done.p, self._slots
        self._look_at_slot(m, done.slot)
        m.d.comb += self.open_done.ready.eq(1)
        with m.If(done.kind == OpenKind.FREE):
            m.d.comb += self.events.freed.eq(1)
            m.d.sync += self._ended.eq(1)
        with m.Else():
            self._mark(m)
            reopened = slots.slot.state == PageState.SEALED
            m.d.comb += [
                slots.write.eq(1),
                slots.write_slot.state.eq(done.state),
            ]
            with m.If(done.refused):
                m.d.sync += self._refused.eq(1)
            with m.Elif(done.kind == OpenKind.OPEN):
                m.d.comb += [
                    slots.write_slot.base.eq(reopened),
                    slots.write_slot.written.eq(0),
                    slots.write_slot.count.eq(0),
                    slots.write_slot.poison.eq(Mux(reopened, slots.slot.poison, 0)),
                    self.events.opened.eq(done.state == PageState.OPEN),
                ]

    # Requests to the movers

    def _fetch(self, m, way, page, info, *, prefetched=0):
        """Gives `way` to `page` and asks for its content."""
        slots, job = self._slots, self._out["fetch_job"]
        m.d.comb += [
            slots.write_way.eq(way),
            slots.write_slot.page.eq(page),
            slots.write_slot.stream.eq(info),
            slots.write.eq(job.ready),
            job.valid.eq(1),
            job.p.slot.eq(self._slot_number(way)),
            job.p.page.eq(page),
            job.p.stream.eq(info),
        ]
        if not prefetched:
            m.d.comb += self._single_row(job)
        with m.If(job.ready):
            self._mark(m, busy=1, prefetched=prefetched)

    def _single_row(self, job):
        """Asks for the row that the head wants, where that is all it wants."""
        request = self._request
        return [
            job.p.single.eq(request.stream.by_row & (request.op == CacheOp.READ)),
            job.p.row.eq(request.line >> 2),
        ]

    def _complete(self, m):
        """Fetches what the head wants of its page, which is here in part."""
        slots, job = self._slots, self._out["fetch_job"]
        m.d.sync += self._missed.eq(1)
        m.d.comb += [
            slots.write_way.eq(slots.hit_way),
            job.valid.eq(1),
            job.p.slot.eq(self._slot_number(slots.hit_way)),
            job.p.page.eq(self._request.page),
            job.p.stream.eq(self._request.stream),
            *self._single_row(job),
        ]
        with m.If(job.ready):
            self._mark(m, busy=1)

    def _miss(self, m):
        """Makes room for the head's page and fetches it; the head tries again until it hits."""
        slots = self._slots
        m.d.sync += self._missed.eq(1)
        with m.If(slots.victim & ~self._spilling):
            with m.If(slots.victim_dirty):
                m.d.sync += self._spilling.eq(self._out["seal_job"].ready)
                self._store(m, SealKind.SPILL, slots.victim_way, slots.victim_slot, slots.victim_slot.written)
            with m.Else():
                self._fetch(m, slots.victim_way, self._request.page, self._request.stream)

    def _store(self, m, kind, way, slot: SlotState, written):
        """Sends the OPEN page in `way` to the sealer, unless that is not ready."""
        slots, job = self._slots, self._out["seal_job"]
        m.d.comb += [
            slots.write_way.eq(way),
            job.valid.eq(1),
            job.p.kind.eq(kind),
            job.p.slot.eq(self._slot_number(way)),
            job.p.page.eq(slot.page),
            job.p.stream.eq(slot.stream),
            job.p.base.eq(slot.base),
            job.p.written.eq(written),
            job.p.poison.eq(slot.poison),
        ]
        with m.If(job.ready):
            self._mark(m, busy=1)

    def _change(self, m, kind):
        """Asks the opener for a change of the head's page, which is in `hit_way`."""
        slots, job = self._slots, self._out["open_job"]
        m.d.sync += self._missed.eq(1)
        self._offer_open(m, kind)
        m.d.comb += slots.write_way.eq(slots.hit_way)
        with m.If(job.ready):
            self._mark(m, busy=1)

    def _offer_open(self, m, kind):
        job = self._out["open_job"]
        m.d.comb += [
            job.valid.eq(1),
            job.p.kind.eq(kind),
            job.p.slot.eq(self._slot_number(self._slots.hit_way)),
            job.p.page.eq(self._request.page),
            job.p.stream.eq(self._request.stream),
        ]

    def _prefetch(self, m):
        slots, page = self._slots, self.prefetch.p.page
        with m.If(~slots.hit & slots.spare):
            m.d.comb += [
                self.prefetch.ready.eq(self._out["fetch_job"].ready),
                self.events.prefetch_issued.eq(self.prefetch.ready),
            ]
            self._fetch(m, slots.spare_way, page, self.prefetch.p.stream, prefetched=1)
        with m.Else():
            m.d.comb += [self.prefetch.ready.eq(1), self.events.prefetch_dropped.eq(~slots.hit)]

    # Requests of the host and of commands

    def _count(self, m):
        """Counts the head's request as it ends, and the first use of a prefetched page."""
        slots = self._slots
        with m.If(self._finish):
            m.d.comb += [
                self.events.hit.eq(~self._missed),
                self.events.miss.eq(self._missed),
                self.events.prefetch_used.eq(slots.hit_flags.prefetched),
            ]
            m.d.comb += slots.write_way.eq(slots.hit_way)
            with m.If(slots.hit_flags.prefetched):
                self._mark(m)

    def _read(self, m):
        slots, lines, request = self._slots, self._lines, self._request
        with m.If(~slots.hit):
            self._miss(m)
        with m.Elif(slots.hit_flags.busy):
            m.d.sync += self._missed.eq(1)
        with m.Elif((slots.hit_slot.state == PageState.SEALED) & ~slots.hit_written):
            self._complete(m)
        with m.Else():
            self._count(m)
            m.d.comb += [
                lines.read.valid.eq(1),
                lines.read.p.slot.eq(self._slot_number(slots.hit_way)),
                lines.read.p.line.eq(request.line),
                self._finish.eq(lines.read.ready),
            ]
            with m.If(lines.read.ready):
                m.d.sync += [
                    self._read_source.eq(request.source),
                    self._read_holds.eq(slots.hit_slot.holds(slots.hit_written)),
                    self._read_poison.eq((slots.hit_slot.state == PageState.POISONED) |
                                         slots.hit_poison),
                ]

    def _write(self, m):
        slots, request, slot = self._slots, self._request, self._slots.hit_slot
        nothing = ~request.byte_enable.any() & ~request.poison
        with m.If(nothing):
            self._complete_write(m)
        with m.Elif(~slots.hit):
            self._miss(m)
        with m.Elif(slots.hit_flags.busy):
            m.d.sync += self._missed.eq(1)
        with m.Elif((slot.state == PageState.SEALED) & (slot.count != PAGE_LINES)):
            self._complete(m)
        with m.Elif(self._refused):
            self._refuse_write(m, ErrorKind.NO_ROOM)
        with m.Elif(request.poison & (slot.state == PageState.POISONED)):
            self._refuse_write(m, ErrorKind.HOST_POISON)
        with m.Elif(request.poison):
            self._change(m, OpenKind.POISON)
        with m.Elif(slot.state == PageState.POISONED):
            self._refuse_write(m, ErrorKind.WRITE_POISONED)
        with m.Elif(slot.state == PageState.OPEN):
            self._store_line(m)
        with m.Else():
            self._change(m, OpenKind.OPEN)

    def _complete_write(self, m):
        response = self._out["write_response"]
        self._count(m)
        m.d.comb += [
            response.p.source.eq(self._request.source),
            response.valid.eq(1),
            self._finish.eq(response.ready),
        ]

    def _refuse_write(self, m, kind):
        """Completes the write without its effect, and says why in an error record."""
        request, response, error = self._request, self._out["write_response"], self._out["error"]
        self._count(m)
        m.d.comb += [
            response.p.source.eq(request.source),
            error.p.kind.eq(kind),
            error.p.address.eq(Cat(Signal(6), request.line, request.page)),
            error.p.detail.eq(request.source.tag),
            response.valid.eq(error.ready),
            error.valid.eq(response.ready),
            self._finish.eq(response.ready & error.ready),
        ]

    def _store_line(self, m):
        """Writes the line into the OPEN page; the 64th distinct line seals the page."""
        slots, lines, request, slot = self._slots, self._lines, self._request, self._slots.hit_slot
        response = self._out["write_response"]
        line_bit = 1 << request.line
        is_new = ~slots.hit_written
        written = Signal(64)
        seals = Signal()
        full = request.byte_enable.all()
        m.d.comb += [
            written.eq(slot.written | line_bit),
            seals.eq(is_new & (slot.count == 63)),
        ]
        ready = Signal()
        m.d.comb += [
            ready.eq(response.ready & (~seals | self._out["seal_job"].ready)),
            lines.write.valid.eq(ready),
            lines.write.p.slot.slot.eq(self._slot_number(slots.hit_way)),
            lines.write.p.slot.line.eq(request.line),
            # A line without content starts from zeros, so bytes that are not enabled are written as zeros.
            lines.write.p.enable.eq(Mux(slot.holds(slots.hit_written), request.byte_enable, ~0)),
            response.valid.eq(transfer(lines.write)),
            response.p.source.eq(request.source),
            self._finish.eq(transfer(lines.write)),
        ]
        for byte in range(64):
            m.d.comb += lines.write.p.data.word_select(byte, 8).eq(
                Mux(request.byte_enable[byte], request.data.word_select(byte, 8), 0))
        self._count(m)
        with m.If(self._finish):
            m.d.comb += [
                slots.write.eq(1),
                slots.write_way.eq(slots.hit_way),
                slots.write_slot.eq(slot),
                slots.write_slot.written.eq(written),
                slots.write_slot.count.eq(slot.count + is_new),
                slots.write_slot.poison.eq(Mux(full, slot.poison & ~line_bit, slot.poison)),
            ]
            with m.If(seals):
                self._store(m, SealKind.SEAL, slots.hit_way, slot, written)
                # The line that completes the page may be the one that heals it.
                m.d.comb += self._out["seal_job"].p.poison.eq(slots.write_slot.poison)

    def _finish_op(self, m):
        done = self._out["op_done"]
        m.d.comb += [
            done.valid.eq(1),
            done.payload.eq(self._request.source),
            self._finish.eq(done.ready),
        ]

    def _seal(self, m):
        slots = self._slots
        is_open = slots.hit_slot.state == PageState.OPEN
        with m.If(slots.hit & slots.hit_flags.busy):
            pass
        with m.Elif(~slots.hit & ~self._issued):
            self._miss(m)
        with m.Elif(slots.hit & is_open):
            self._store(m, SealKind.SEAL, slots.hit_way, slots.hit_slot, slots.hit_slot.written)
            m.d.sync += self._issued.eq(self._out["seal_job"].ready)
        with m.Else():
            self._finish_op(m)

    def _flush(self, m):
        slots = self._slots
        with m.If(slots.hit & slots.hit_flags.busy):
            pass
        with m.Elif(slots.hit & (slots.hit_slot.state == PageState.OPEN)):
            self._store(m, SealKind.SPILL, slots.hit_way, slots.hit_slot, slots.hit_slot.written)
        with m.Else():
            self._finish_op(m)
            m.d.comb += slots.write_way.eq(slots.hit_way)
            with m.If(self._finish & slots.hit):
                self._mark(m, valid=0)

    def _free(self, m):
        slots = self._slots
        with m.If(self._ended):
            self._finish_op(m)
        with m.Elif(~self._issued & ~(slots.hit & slots.hit_flags.busy)):
            self._offer_open(m, OpenKind.FREE)
            m.d.sync += self._issued.eq(self._out["open_job"].ready)
            m.d.comb += slots.write_way.eq(slots.hit_way)
            with m.If(self._out["open_job"].ready & slots.hit):
                self._mark(m, valid=0)
