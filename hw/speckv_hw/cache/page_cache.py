"""The page cache: every read and write of the host ends here."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.cache.early_reads import EarlyReads
from speckv_hw.cache.line_store import LineStore
from speckv_hw.cache.list_copy import ListCopy
from speckv_hw.cache.messages import (
    CacheEvents,
    CacheOp,
    CacheRequest,
    PrefetchProposal,
    ReadResponse,
    SlotState,
    Source,
    WriteResponse,
    assign_written,
)
from speckv_hw.cache.slot_table import SlotTable, set_of
from speckv_hw.cache.wait_lists import WaitLists
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
    SurePage,
)
from speckv_model.constants import LINE_BYTES, PAGE_LINES, ROW_LINES

__all__ = ["PageCache"]


class _Turn(data.Struct):
    """Who may act on the slot table; one at most."""
    open: 1
    fetch: 1
    seal: 1
    prefetch: 1
    list: 1
    """The list that has its turn."""
    next: 1
    """The list whose turn comes next."""
    head: 1


class _Actor:
    """A request that may act, and what is known of its page's slot: there are two, the head of the line and the first
    request of the list. Each has what hangs on its own knowledge alone, since much hangs on that in turn."""

    def __init__(self, entry, slot, is_written, is_poisoned, *, refused, of_list):
        self.entry, self.request, self.slot = entry, entry.request, slot
        self.is_written, self.is_poisoned, self.refused, self.of_list = is_written, is_poisoned, refused, of_list
        self.stored = Signal(SlotState)
        """The slot after the request, where that is a write."""
        self.ends = Signal()
        """The request ends if it acts in this clock."""


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

    Requests to a page take effect in the order in which they were accepted, those to different pages in any order; so
    come the responses. A request that hits is served in its turn, one a clock. One whose page is not there or busy
    causes what brings the page, if nobody has yet, and joins the list of those that wait for the page's slot; the list
    is served when the mover is done, beside the requests that come. Reads of it are served before that as far as the
    page has come, once the fetcher is sure of it. The line stops only where no slot can be had (one
    OPEN page at a time is spilled), where `requests_in_flight` requests wait, or at an operation on a page, which waits
    for its end at the head. Prefetches use the clocks in which the head waits or nothing does. Sealing and fetching go
    on beside the requests. On reset the cache is empty.

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
    fetch_job, fetch_done, fill, sure : to and from the fetcher
    open_job, open_done : to and from the opener
    seal_job, seal_done, seal_read, seal_data : to and from the sealer
    error : Out(stream of ErrorRecord)
    events : Out(CacheEvents)

    Whoever wants something of the slot table looks at it in one clock and acts on its answer in the next, while another
    one looks: a mover's answer, a prefetch, a list or the head of the line.

    `latency` is the number of clocks from the acceptance of a read that hits to its response.
    """

    latency = 4

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
            "sure": In(SurePage),
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
        in_line = data.StructLayout({"request": CacheRequest, "index": len(self._slots.index), "writes": 1, "whole": 1})
        m.submodules.next = following = Stage(in_line)
        m.submodules.early = self._early = EarlyReads(config)
        m.submodules.waiting = self._waiting = waiting = WaitLists(config, in_line)
        m.submodules.copy = self._copy = ListCopy()
        m.d.comb += [
            following.i.p.request.eq(self.request.payload),
            following.i.p.index.eq(set_of(config, self.request.p.page)),
            # Whether a write writes any bytes, and all of a line
            following.i.p.writes.eq(self.request.p.byte_enable.any()),
            following.i.p.whole.eq(self.request.p.byte_enable.all()),
            following.i.valid.eq(self.request.valid),
            self.request.ready.eq(following.i.ready),
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

        self._head = head = Signal(in_line)
        """The first of the line of requests."""
        self._head_valid = Signal()
        self._leaves = Signal()
        """The head leaves the line in this clock."""
        self._turn = turn = Signal(_Turn)
        """What the slot table's answer of this clock is about, one or nothing: only that may change the table."""
        copy, slots = self._copy, self._slots
        self._on_line = _Actor(head, slots.hit_slot, slots.hit_written, slots.hit_poison, refused=0, of_list=False)
        self._on_list = _Actor(waiting.payload, copy.slot, copy.written,
                               copy.slot.poison.bit_select(waiting.payload.request.line, 1),
                               refused=waiting.refused, of_list=True)
        self._request = Signal(CacheRequest)
        """The request that acts."""
        self._number = Signal(range(max(2, config.cache_pages)))
        """The slot that it is about: that of its page, or the one that the page would get."""
        self._op_ends = Signal()
        """The operation at the head ends if that acts."""
        # What an operation at the head has already caused.
        self._issued = Signal()
        self._ended = Signal()
        self._spilling = Signal()
        self._fetched_to_write = Signal(max(2, config.cache_pages))
        """Slots whose page was fetched for a write, which is the first in the slot's list."""
        m.d.comb += [
            self._request.eq(Mux(turn.list, waiting.payload.request.as_value(), head.request.as_value())),
            waiting.pushed.eq(head),
            self._leaves.eq((turn.head & (self._on_line.ends | waiting.push)) | waiting.follow),
            following.o.ready.eq(self._leaves | ~self._head_valid),
        ]
        with m.If(following.o.ready):
            m.d.sync += [head.eq(following.o.payload), self._head_valid.eq(following.o.valid),
                         self._issued.eq(0), self._ended.eq(0)]
        self._serve_list(m)
        self._judge(m)
        self._follow(m)
        self._take_turns(m, following)
        self._fill_in(m)

        with m.If(turn.open):
            self._take_open(m)
        with m.If(turn.fetch):
            self._take_fetch(m)
        with m.If(turn.seal):
            self._take_seal(m)
        with m.If(turn.prefetch & ~self._frees()):
            self._prefetch(m)
        with m.If(self._list_acts):
            self._act_for_list(m)
        self._connect_copy(m)
        with m.If(turn.head):
            m.d.comb += waiting.follow.eq(0)
            with m.Switch(head.request.op):
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

    def _connect_copy(self, m):
        """Copies what the slot says of the list whose turn it is, or comes next so that it can begin with it."""
        slots, waiting, copy, turn, early = self._slots, self._waiting, self._copy, self._turn, self._early
        # A list that has its turn early has nothing of its slot. Who looks does not wait to know that, so that there
        # may be a look or two for nothing.
        looked_of = Mux(copy.began, waiting.of, waiting.next_of)
        is_early = early.turn & (waiting.of == early.slot)
        m.d.sync += [
            self._has_turn.eq(waiting.begun & ~waiting.ends & ~is_early),
            self._next_is_early.eq(early.turn & (waiting.next_of == early.slot)),
        ]
        m.d.comb += [
            copy.starts.eq(waiting.starts),
            copy.ends.eq(waiting.ends),
            copy.line.eq(waiting.payload.request.line),
            copy.loads.eq(waiting.loads),
            copy.loaded.eq(waiting.loaded.request.line),
            copy.whole.eq(waiting.payload.whole),
            copy.answer.eq(slots.hit_slot),
            copy.is_current.eq(turn.list & ~copy.valid & ~is_early),
            copy.is_next.eq(turn.next & ~(early.turn & (looked_of == early.slot))),
            copy.fetched_slot.eq(slots.write_slot),
            self._wants_next.eq(waiting.next_valid & ~copy.has_next & ~turn.next & ~self._next_is_early),
        ]
        with m.If(copy.is_current | copy.is_next):
            m.d.comb += self.events.prefetch_used.eq(slots.hit_flags.prefetched)
            self._mark(m, busy=1)

    def _take_turns(self, m, following):
        """Chooses who looks at the slot table in this clock, so that it may act in the next one."""
        config, slots, waiting, turn, head = self._config, self._slots, self._waiting, self._turn, self._head
        chosen, looks_ahead, head_waited = Signal(_Turn), Signal(), Signal()
        ahead = Mux(looks_ahead, following.o.payload.as_value(), head.as_value())
        looked_for = Signal(head.shape())
        m.d.comb += [
            # While the head acts the one behind it looks, for the case that the head leaves.
            looks_ahead.eq(turn.head | ~self._head_valid),
            looked_for.eq(ahead),
            slots.page.eq(looked_for.request.page),
            slots.line.eq(looked_for.request.line),
            slots.index.eq(looked_for.index),
        ]
        # The last request of a list needs the table, and is known a clock ahead.
        list_wants = Mux(self._copy.valid, self._list_waits | waiting.next_is_last, self._has_turn)
        # The opener goes first, since the others may have to wait for it. None has two turns on end.
        with m.If(self.open_done.valid & ~turn.open):
            m.d.comb += chosen.open.eq(1)
            self._look_at_slot(m, self.open_done.p.slot)
        with m.Elif(self.fetch_done.valid & ~turn.fetch):
            m.d.comb += chosen.fetch.eq(1)
            self._look_at_slot(m, self.fetch_done.p.slot)
        with m.Elif(self.seal_done.valid & ~turn.seal):
            m.d.comb += chosen.seal.eq(1)
            self._look_at_slot(m, self.seal_done.p.slot)
        with m.Elif(self.prefetch.valid & ~turn.prefetch & ~list_wants & ~self._wants_next
                    & (head_waited | ~(self._head_valid | following.o.valid))):
            m.d.comb += [
                chosen.prefetch.eq(1),
                slots.page.eq(self.prefetch.p.page),
                slots.index.eq(set_of(config, self.prefetch.p.page)),
            ]
        with m.Elif(list_wants & ~turn.list):
            m.d.comb += chosen.list.eq(1)
            self._look_at_slot(m, waiting.of)
        with m.Elif(self._wants_next):
            m.d.comb += chosen.next.eq(1)
            self._look_at_slot(m, waiting.next_of)
        with m.Else():
            m.d.comb += chosen.head.eq(1)

        # What the head waits for where it finds its page here.
        lines, response = self._lines, self._out["write_response"]
        waits = Mux(head.request.op == CacheOp.WRITE, self._list_writes | ~lines.write.ready | ~response.ready,
                    self._list_reads | ~lines.read.ready)
        m.d.comb += slots.hold.eq(turn.head & chosen.head & waits)
        m.d.sync += [
            turn.eq(Mux(slots.stale, 0, chosen.as_value())),
            turn.list.eq(chosen.list & ~slots.stale & ~waiting.ends),
            head_waited.eq(turn.head & ~self._leaves),
        ]
        stays = self._head_valid & ~self._leaves
        arrives = following.o.valid & following.o.ready
        with m.If(chosen.head):
            m.d.sync += turn.head.eq(~slots.stale & Mux(looks_ahead & ~slots.hold, arrives, stays))

    def _look_at_slot(self, m, slot):
        way_bits = (self._config.cache_ways - 1).bit_length()
        m.d.comb += [
            self._slots.by_way.eq(1),
            self._slots.index.eq(slot >> way_bits),
            self._slots.way.eq(slot & (self._config.cache_ways - 1)),
        ]

    def _frees(self):
        """Nothing may be fetched of a page while it is given back."""
        return self._head_valid & (self._head.request.op == CacheOp.FREE)

    def _judge(self, m):
        """What ends if it acts."""
        slots, head = self._slots, self._head
        response = self._out["write_response"]
        is_here = slots.hit & ~slots.hit_flags.busy & self._could_end(self._on_line)
        m.d.comb += self._on_list.ends.eq(self._could_end(self._on_list))
        with m.Switch(head.request.op):
            with m.Case(CacheOp.READ):
                m.d.comb += self._on_line.ends.eq(is_here & ~self._list_reads)
            with m.Case(CacheOp.WRITE):
                has_effect = head.writes | head.request.poison
                m.d.comb += self._on_line.ends.eq(Mux(has_effect, is_here, response.ready) & ~self._list_writes)
            with m.Default():
                m.d.comb += self._on_line.ends.eq(self._op_ends)

    def _could_end(self, actor):
        """Whether a READ, or a WRITE with an effect, can end whose page is here and not busy, if nobody wants what it
        needs."""
        lines, slot, request = self._lines, actor.slot, actor.request
        response, error, seal = [self._out[name].ready for name in ("write_response", "error", "seal_job")]
        is_partial = (slot.state == PageState.SEALED) & (slot.count != PAGE_LINES)
        seals = ~actor.is_written & (slot.count == PAGE_LINES - 1)
        stores = (slot.state == PageState.OPEN) & ~request.poison & lines.write.ready & (~seals | seal)
        is_refused = (slot.state == PageState.POISONED) | actor.refused
        return Mux(request.op == CacheOp.READ,
                   ((slot.state != PageState.SEALED) | actor.is_written) & lines.read.ready,
                   ~is_partial & response & Mux(is_refused, error, stores))

    def _follow(self, m):
        """The head joins the list that the one before it has joined, if it is for the same page and that list has not
        ended: this needs no look at the slots, so it is done beside whatever else looks at them."""
        waiting, head, request = self._waiting, self._head, self._head.request
        joined = Signal(request.page.shape())
        # The list is not empty, so its slot still has the page that the last request joined for.
        m.d.comb += waiting.follow.eq(self._head_valid & self._waits_its_turn(head) & (request.page == joined)
                                      & waiting.can_follow)
        with m.If(waiting.push):
            m.d.sync += joined.eq(request.page)

    @staticmethod
    def _waits_its_turn(head):
        """Whether a request has to wait where others wait for its page."""
        op = head.request.op
        return (op == CacheOp.READ) | ((op == CacheOp.WRITE) & (head.request.poison | head.writes))

    def _serve_list(self, m):
        """What the list whose turn it is can do beside all else: its slot is busy for all others, so what the slot says
        is copied, counts here, and is written back with whatever else the list needs the slot table for."""
        lines, waiting = self._lines, self._waiting
        request = waiting.payload.request
        actor, copy = self._on_list, self._copy.slot
        self._list_acts = self._turn.list & self._copy.valid & waiting.valid
        self._list_waits = Signal()
        """The list's request needs the slot table; seen a clock late."""
        self._wants_next = Signal()
        """The list that comes next has no copy of its slot yet."""
        self._has_turn, self._next_is_early = Signal(), Signal()
        """A clock ago: a list had its turn, and not early; the one that comes next was to have it early."""
        self._follow_fill(m)
        early_reads = self._early.here & (request.op == CacheOp.READ) & ~self.fetch_done.valid
        self._list_reads, self._list_writes = Signal(), Signal()
        self._looked_reads, self._looked_writes = Signal(), Signal()
        """The request that acts wants what a read, or a write, of the list wants too."""
        reads_passed, writes_passed = Signal(), Signal()
        written, poison = actor.is_written, actor.is_poisoned
        can = waiting.valid & self._copy.valid & ~waiting.last
        asks = Signal()
        reads = can & (request.op == CacheOp.READ) & ((copy.state != PageState.SEALED) | written)
        writes = (can & (request.op == CacheOp.WRITE) & (copy.state == PageState.OPEN) & ~request.poison
                  & waiting.payload.writes & (written | (copy.count != PAGE_LINES - 1)))
        response = self._out["write_response"]
        m.d.comb += [
            asks.eq(waiting.valid & ~self._early.is_early & ~reads & ~writes),
            # Who wants what the list wants too gets it in the next clock.
            self._list_reads.eq((reads | early_reads) & ~reads_passed & ~self._turn.list),
            self._list_writes.eq(writes & ~writes_passed & ~self._turn.list),
            self.events.miss.eq(waiting.pop),
        ]
        m.d.sync += [
            # With a turn of the list all may be different.
            self._list_waits.eq(asks & ~self._turn.list),
            reads_passed.eq(self._list_reads & self._looked_reads),
            writes_passed.eq(self._list_writes & self._looked_writes),
        ]
        with m.If(self._list_reads):
            m.d.comb += [lines.read.valid.eq(1), waiting.pop.eq(lines.read.ready)]
        with m.Elif(self._list_writes):
            m.d.comb += [
                lines.write.valid.eq(response.ready),
                response.valid.eq(lines.write.ready),
                waiting.pop.eq(response.ready & lines.write.ready),
                self._copy.wrote.eq(waiting.pop),
            ]
        with m.Else():
            m.d.comb += waiting.pop.eq(self._list_acts & actor.ends)

        by_list = self._list_reads | self._turn.list
        head = self._on_line
        head_holds = head.slot.holds(head.is_written)
        m.d.comb += [
            lines.read.p.slot.eq(Mux(self._list_reads, waiting.of, self._number)),
            lines.read.p.line.eq(Mux(by_list, request.line, head.request.line)),
        ]
        with m.If(lines.read.ready):
            m.d.sync += [
                self._read_source.eq(Mux(by_list, request.source, head.request.source)),
                self._read_holds.eq((self._list_reads & early_reads)
                                    | Mux(by_list, copy.holds(written), head_holds)),
                self._read_poison.eq(Mux(by_list,
                                         ~(self._list_reads & early_reads)
                                         & ((copy.state == PageState.POISONED) | poison),
                                         (head.slot.state == PageState.POISONED) | head.is_poisoned)),
            ]
        # Bytes that are not enabled stay, or are written as zeros where nothing was.
        writer = Signal(CacheRequest)
        write = lines.write.p
        m.d.comb += [
            writer.eq(Mux(self._list_writes | self._turn.list, request.as_value(),
                          head.request.as_value())),
            response.p.source.eq(writer.source),
            write.slot.slot.eq(Mux(self._list_writes, waiting.of, self._number)),
            write.slot.line.eq(writer.line),
            write.enable.eq(Mux(Mux(self._list_writes | self._turn.list, copy.holds(written), head_holds),
                                writer.byte_enable, ~0)),
        ]
        for byte in range(LINE_BYTES):
            m.d.comb += write.data.word_select(byte, 8).eq(
                Mux(writer.byte_enable[byte], writer.data.word_select(byte, 8), 0))

    def _follow_fill(self, m):
        """Reads of a list whose page still comes."""
        waiting, early, fill, done = self._waiting, self._early, self.fill, self.fetch_done
        busy = done.valid | self.seal_done.valid | self.open_done.valid
        m.d.comb += [
            early.sure.eq(self.sure),
            early.waits.eq(waiting.waits),
            early.busy.eq(busy),
            early.filled.eq(transfer(fill)),
            early.filled_slot.eq(fill.p.slot),
            early.filled_line.eq(fill.p.line),
            early.fetched.eq(transfer(done)),
            early.fetched_slot.eq(done.p.slot),
            early.valid.eq(waiting.valid),
            early.of.eq(waiting.of),
            early.line.eq(waiting.payload.request.line),
            early.pop.eq(waiting.pop),
            early.last.eq(waiting.last),
        ]
        with m.If(~busy):
            m.d.comb += [
                waiting.asked.eq(self.sure.slot),
                waiting.wake.p.slot.eq(self.sure.slot),
                waiting.wake.valid.eq(early.wake),
            ]

    def _act_for_list(self, m):
        """What the first request of a list needs the slot table for."""
        m.d.comb += self._slots.write.eq(1)
        with m.If(self._on_list.request.op == CacheOp.READ):
            self._read_here(m, self._on_list)
        with m.Else():
            self._write_here(m, self._on_list)

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

    def _ask_for(self, m, slot):
        """Asks whether anybody waits for the slot of an event."""
        m.d.comb += [self._waiting.asked.eq(slot), self._waiting.wake.p.slot.eq(slot)]

    def _fill_in(self, m):
        """What every job and change would say, by who acts: so only whether there is one is found late in the clock."""
        slots, turn, request = self._slots, self._turn, self._request
        fetch, opens, seal = [self._out[name].p for name in ("fetch_job", "open_job", "seal_job")]
        of_event = turn.open | turn.fetch | turn.seal
        way, sealed = Signal.like(slots.hit_way), Signal(SlotState)
        page, info = Signal.like(request.page), Signal.like(request.stream)
        proposal = self.prefetch.p
        m.d.comb += [
            way.eq(Mux(slots.hit, slots.hit_way, Mux(turn.prefetch, slots.spare_way, slots.victim_way))),
            self._number.eq((slots.set * self._config.cache_ways) | way),
            self._waiting.slot.eq(self._number),
            page.eq(Mux(of_event, slots.hit_slot.page, Mux(turn.prefetch, proposal.page, request.page))),
            info.eq(Mux(of_event, slots.hit_slot.stream.as_value(),
                        Mux(turn.prefetch, proposal.stream.as_value(), request.stream.as_value()))),
            *(statement for actor in (self._on_line, self._on_list) for statement in assign_written(
                actor.stored, actor.slot, actor.request.line, actor.entry.whole, actor.is_written)),
            slots.write_way.eq(way),

            fetch.slot.eq(self._number),
            fetch.page.eq(page),
            fetch.stream.eq(info),
            # A row that a read wants, where its page is to come by rows.
            fetch.single.eq((turn.head | turn.list) & request.stream.by_row & (request.op == CacheOp.READ)),
            fetch.row.eq(request.line >> 2),

            opens.kind.eq(Mux(turn.fetch, OpenKind.OPEN,
                              Mux(request.op == CacheOp.FREE, OpenKind.FREE,
                                  Mux(request.poison, OpenKind.POISON, OpenKind.OPEN)))),
            opens.slot.eq(self._number),
            opens.page.eq(page),
            opens.stream.eq(info),

            # The line that completes a page may be the one that heals it.
            sealed.eq(Mux(turn.list, self._on_list.stored.as_value(),
                          Mux(slots.hit, Mux(self._head.request.op == CacheOp.WRITE,
                                             self._on_line.stored.as_value(), slots.hit_slot.as_value()),
                              slots.victim_slot.as_value()))),
            seal.kind.eq(Mux(slots.hit & (request.op != CacheOp.FLUSH), SealKind.SEAL, SealKind.SPILL)),
            seal.slot.eq(self._number),
            seal.page.eq(sealed.page),
            seal.stream.eq(sealed.stream),
            seal.base.eq(sealed.base),
            seal.written.eq(sealed.written),
            seal.poison.eq(sealed.poison),
        ]
        with m.If(of_event):
            m.d.comb += slots.write_slot.eq(slots.hit_slot)
        with m.Elif(turn.list):
            m.d.comb += slots.write_slot.eq(self._copy.slot)
        with m.Elif(slots.hit):
            m.d.comb += slots.write_slot.eq(self._on_line.stored)
        with m.Else():
            m.d.comb += [slots.write_slot.page.eq(page), slots.write_slot.stream.eq(info)]

    def _mark(self, m, *, valid=1, busy=0, prefetched=0):
        m.d.comb += [
            self._slots.mark.eq(1),
            self._slots.mark_flags.valid.eq(valid),
            self._slots.mark_flags.busy.eq(busy),
            self._slots.mark_flags.prefetched.eq(prefetched),
        ]

    # Answers of the movers

    def _opens_at_once(self):
        """Whether a write waits for the page that was fetched, and it is EMPTY."""
        done = self.fetch_done.p
        return (done.state == PageState.EMPTY) & self._fetched_to_write.bit_select(done.slot, 1)

    def _take_fetch(self, m):
        done, slots, job = self.fetch_done.p, self._slots, self._out["open_job"]
        opens = self._opens_at_once()
        taken = ~opens | job.ready
        self._ask_for(m, done.slot)
        early = done.slot == self._early.slot
        # The list that has its turn early goes on with what the slot says now.
        goes_on = early & self._early.is_early
        used = early & (self._early.served | self._early.is_early)
        m.d.comb += [
            job.valid.eq(opens),
            self._waiting.wake.valid.eq(self._waiting.waits & ~opens & ~(early & self._early.turn)),
            self.events.prefetch_used.eq(taken & used & slots.hit_flags.prefetched),
            self.fetch_done.ready.eq(taken),
            slots.write.eq(taken),
            slots.write_slot.state.eq(done.state),
            slots.write_slot.base.eq(done.base),
            slots.write_slot.written.eq(done.written),
            slots.write_slot.count.eq(_ones(done.written)),
            slots.write_slot.poison.eq(done.poison),
            self.events.fetched.eq(taken),
        ]
        with m.If(done.single):
            m.d.comb += [
                slots.write_slot.written.eq(slots.hit_slot.written | done.written),
                slots.write_slot.count.eq(slots.hit_slot.count + ROW_LINES),
                slots.write_slot.poison.eq(slots.hit_slot.poison | done.poison),
            ]
        with m.If(taken):
            self._mark(m, busy=self._waiting.waits, prefetched=slots.hit_flags.prefetched & ~used)
            m.d.comb += self._copy.fetched.eq(goes_on)

    def _take_seal(self, m):
        """The slot is free again, unless somebody waits for the page that was in it: then it is fetched again."""
        done, job = self.seal_done.p, self._out["fetch_job"]
        again = self._waiting.waits
        ends = transfer(self.seal_done)
        self._ask_for(m, done.slot)
        m.d.comb += [
            self.seal_done.ready.eq(job.ready | ~again),
            self.events.spilled.eq(ends & (done.kind == SealKind.SPILL)),
            self.events.sealed.eq(ends & (done.kind == SealKind.SEAL) & (done.state == PageState.SEALED)),
            job.valid.eq(again),
        ]
        with m.If(ends):
            m.d.sync += self._fetched_to_write.bit_select(done.slot, 1).eq(0)
            self._mark(m, valid=again, busy=again)
            with m.If(done.kind == SealKind.SPILL):
                m.d.sync += self._spilling.eq(0)

    def _take_open(self, m):
        done, slots = self.open_done.p, self._slots
        self._ask_for(m, done.slot)
        m.d.comb += self.open_done.ready.eq(1)
        with m.If(done.kind == OpenKind.FREE):
            m.d.comb += self.events.freed.eq(1)
            m.d.sync += self._ended.eq(1)
        with m.Else():
            self._mark(m, busy=self._waiting.waits)
            reopened = slots.hit_slot.state == PageState.SEALED
            m.d.comb += [
                slots.write.eq(1),
                slots.write_slot.state.eq(done.state),
                self._waiting.wake.valid.eq(self._waiting.waits),
                self._waiting.wake.p.refused.eq(done.refused),
            ]
            with m.If(~done.refused & (done.kind == OpenKind.OPEN)):
                m.d.comb += [
                    slots.write_slot.base.eq(reopened),
                    slots.write_slot.written.eq(0),
                    slots.write_slot.count.eq(0),
                    slots.write_slot.poison.eq(Mux(reopened, slots.hit_slot.poison, 0)),
                    self.events.opened.eq(done.state == PageState.OPEN),
                ]

    # Requests to the movers

    def _join(self, m, actor):
        """The head joins the list of its slot, or the list waits for what its first request has caused."""
        m.d.comb += (self._waiting.leave if actor.of_list else self._waiting.push).eq(1)

    def _fetch(self, m, *, to_write=0, prefetched=0):
        """Gives a slot to a page and asks for its content."""
        slots, job = self._slots, self._out["fetch_job"]
        m.d.comb += [slots.write.eq(job.ready), job.valid.eq(1)]
        with m.If(job.ready):
            self._mark(m, busy=1, prefetched=prefetched)
            m.d.sync += self._fetched_to_write.bit_select(self._number, 1).eq(to_write)

    def _ask(self, m, actor, job):
        """Asks a mover for what the request wants of its page, which is here, and lets it wait for that."""
        can = self._can_join(actor)
        m.d.comb += job.valid.eq(can)
        with m.If(can & job.ready):
            self._mark(m, busy=1)
            self._join(m, actor)

    def _miss(self, m, *, joins=True):
        """Makes room for the head's page and fetches it; the head waits until there is room, and then in the page's
        list, unless not even then."""
        slots, request = self._slots, self._head.request
        with m.If(slots.victim_dirty):
            with m.If(slots.victim & ~self._spilling):
                m.d.sync += self._spilling.eq(self._out["seal_job"].ready)
                self._store(m)
        with m.Elif(slots.victim & (self._can_join(self._on_line) if joins else 1)):
            self._fetch(m, to_write=(request.op == CacheOp.WRITE) & ~request.poison)
            if joins:
                with m.If(self._out["fetch_job"].ready):
                    self._join(m, self._on_line)

    def _can_join(self, actor):
        """Whether a request can join a list; a list's own has its place."""
        return 1 if actor.of_list else self._waiting.room

    def _store(self, m):
        """Sends the OPEN page in the slot to the sealer, unless that is not ready."""
        job = self._out["seal_job"]
        m.d.comb += job.valid.eq(1)
        with m.If(job.ready):
            self._mark(m, busy=1)

    def _prefetch(self, m):
        slots = self._slots
        with m.If(~slots.hit & slots.spare):
            m.d.comb += [
                self.prefetch.ready.eq(self._out["fetch_job"].ready),
                self.events.prefetch_issued.eq(self.prefetch.ready),
            ]
            self._fetch(m, prefetched=1)
        with m.Else():
            m.d.comb += [self.prefetch.ready.eq(1), self.events.prefetch_dropped.eq(~slots.hit)]

    # Requests of the host and of commands

    def _count(self, m, actor):
        """Counts the request as it ends, and the first use of a prefetched page; with the last request of a list its
        page is there for all."""
        slots = self._slots
        with m.If(actor.ends):
            if actor.of_list:
                with m.If(self._waiting.last):
                    self._mark(m)
            else:
                m.d.comb += [self.events.hit.eq(1), self.events.prefetch_used.eq(slots.hit_flags.prefetched)]
                with m.If(slots.hit_flags.prefetched):
                    self._mark(m)

    def _read(self, m):
        slots = self._slots
        with m.If(~slots.hit):
            self._miss(m)
        with m.Elif(slots.hit_flags.busy):
            m.d.comb += self._waiting.push.eq(self._waiting.room)
        with m.Else():
            self._read_here(m, self._on_line)

    def _read_here(self, m, actor):
        """A read whose page is here and not busy, unless for the list that it is of."""
        with m.If((actor.slot.state == PageState.SEALED) & ~actor.is_written):
            self._ask(m, actor, self._out["fetch_job"])
        with m.Else():
            self._count(m, actor)
            m.d.comb += [self._looked_reads.eq(1), self._lines.read.valid.eq(1)]

    def _write(self, m):
        slots, head = self._slots, self._head
        with m.If(~head.writes & ~head.request.poison):
            self._complete_write(m)
        with m.Elif(~slots.hit):
            self._miss(m)
        with m.Elif(slots.hit_flags.busy):
            m.d.comb += self._waiting.push.eq(self._waiting.room)
        with m.Else():
            self._write_here(m, self._on_line)

    def _write_here(self, m, actor):
        """A write with an effect whose page is here and not busy, unless for the list that it is of."""
        slot, poison = actor.slot, actor.request.poison
        with m.If((slot.state == PageState.SEALED) & (slot.count != PAGE_LINES)):
            self._ask(m, actor, self._out["fetch_job"])
        if actor.of_list:
            with m.Elif(actor.refused):
                self._refuse_write(m, actor, ErrorKind.NO_ROOM)
        with m.Elif(poison & (slot.state == PageState.POISONED)):
            self._refuse_write(m, actor, ErrorKind.HOST_POISON)
        with m.Elif(poison):
            self._ask(m, actor, self._out["open_job"])
        with m.Elif(slot.state == PageState.POISONED):
            self._refuse_write(m, actor, ErrorKind.WRITE_POISONED)
        with m.Elif(slot.state == PageState.OPEN):
            self._store_line(m, actor)
        with m.Else():
            self._ask(m, actor, self._out["open_job"])

    def _complete_write(self, m):
        self._count(m, self._on_line)
        m.d.comb += self._looked_writes.eq(1)
        with m.If(~self._list_writes):
            m.d.comb += self._out["write_response"].valid.eq(1)

    def _refuse_write(self, m, actor, kind):
        """Completes the write without its effect, and says why in an error record."""
        request, response, error = actor.request, self._out["write_response"], self._out["error"]
        self._count(m, actor)
        m.d.comb += [
            self._looked_writes.eq(1),
            error.p.kind.eq(kind),
            error.p.address.eq(Cat(Signal(6), request.line, request.page)),
            error.p.detail.eq(request.source.tag),
        ]
        with m.If(~self._list_writes):
            m.d.comb += [response.valid.eq(error.ready), error.valid.eq(response.ready)]

    def _store_line(self, m, actor):
        """Writes the line into the OPEN page; the 64th distinct line seals the page."""
        slots, lines = self._slots, self._lines
        response = self._out["write_response"]
        seals = ~actor.is_written & (actor.slot.count == PAGE_LINES - 1)
        can_write = ~seals | self._out["seal_job"].ready
        self._count(m, actor)
        m.d.comb += self._looked_writes.eq(1)
        with m.If(~self._list_writes):
            m.d.comb += [
                lines.write.valid.eq(response.ready & can_write),
                response.valid.eq(lines.write.ready & can_write),
            ]
        with m.If(actor.ends):
            m.d.comb += slots.write.eq(1)
            if actor.of_list:
                m.d.comb += [slots.write_slot.eq(actor.stored), self._copy.wrote.eq(1)]
            with m.If(seals):
                self._store(m)
                if actor.of_list:
                    # What is left of the list waits for the end of this.
                    m.d.comb += self._waiting.leave.eq(1)

    def _finish_op(self, m):
        done = self._out["op_done"]
        m.d.comb += [
            done.valid.eq(1),
            done.payload.eq(self._head.request.source),
            self._op_ends.eq(done.ready),
        ]

    def _seal(self, m):
        slots = self._slots
        is_open = slots.hit_slot.state == PageState.OPEN
        with m.If(slots.hit & slots.hit_flags.busy):
            pass
        with m.Elif(~slots.hit & ~self._issued):
            self._miss(m, joins=False)
        with m.Elif(slots.hit & is_open):
            self._store(m)
            m.d.sync += self._issued.eq(self._out["seal_job"].ready)
        with m.Else():
            self._finish_op(m)

    def _flush(self, m):
        slots = self._slots
        with m.If(slots.hit & slots.hit_flags.busy):
            pass
        with m.Elif(slots.hit & (slots.hit_slot.state == PageState.OPEN)):
            self._store(m)
        with m.Else():
            self._finish_op(m)
            with m.If(self._op_ends & slots.hit):
                self._mark(m, valid=0)

    def _free(self, m):
        slots = self._slots
        with m.If(self._ended):
            self._finish_op(m)
        with m.Elif(~self._issued & ~(slots.hit & slots.hit_flags.busy)):
            m.d.comb += self._out["open_job"].valid.eq(1)
            m.d.sync += self._issued.eq(self._out["open_job"].ready)
            with m.If(self._out["open_job"].ready & slots.hit):
                self._mark(m, valid=0)
