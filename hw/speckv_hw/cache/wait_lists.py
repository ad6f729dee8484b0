"""Requests that wait for pages of the cache."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.config import DeviceConfig
from speckv_hw.stream import Fifo, chain

__all__ = ["WaitLists"]


class WaitLists(wiring.Component):
    """Keeps requests whose page is not ready in a list for each cache slot, and gives them back in order.

    A list is given back when its slot is woken, one list at a time, in the order in which they were woken: its first
    request is in `payload` while `valid`. `pop` takes it away, `leave` ends the turn of the list, which keeps what is
    left of it until it is woken again; both may come together, and a list's turn also ends where it becomes empty.
    What comes next is read ahead, so that `payload` is a register: one request a clock in and one out, and lists
    without a gap between them; there is a gap of a clock where what comes next was appended just before and after a
    list of one request, and one of two after a `leave`. `push` and `leave` not in one clock. Empty on reset.

    Parameters
    ----------
    config : DeviceConfig
        There is a list for each of `cache_pages`; together they hold `requests_in_flight` requests.
    request : shape-like
        What waits.

    Members
    -------
    push : In
        Appends `pushed` to the list of `slot`; only while `room`.
    slot : In
    pushed : In(request)
    room : Out
        A request can be appended to the list of `slot`.
    follow : In
        Appends `pushed` to the list that was last appended to; only while `can_follow`, and not with `push`.
    can_follow : Out
        That list is not empty, and a request can be appended to it.
    asked, waits : In, Out
        Whether a request waits for the slot `asked`.
    wake : In(stream of slot and `refused`)
        Begins the turn of a list that has requests, sometime. Always ready: no slot may be woken twice before its turn.
    valid, payload : Out
    of : Out
        The slot that `payload` waits for.
    refused : Out
        As of `wake`, for the first request of a turn.
    last : Out
        No other request waits for `of`.
    next_is_last : Out
        The request behind `payload` was the last one in the clock before.
    loads, loaded : Out
        `payload` changes with the next clock, and to what.
    pop, leave : In
    begun : Out
        A list has its turn, that of `of`, also where its request is still to come.
    starts, ends : Out
        A turn begins with the next clock, or ends with this one; combinational.
    next_valid, next_of : Out
        The slot whose turn starts next.
    """

    def __init__(self, config: DeviceConfig, request):
        self._config = config
        self._request = request
        slot = range(max(2, config.cache_pages))
        super().__init__({
            "push": In(1),
            "slot": In(slot),
            "pushed": In(request),
            "room": Out(1),
            "follow": In(1),
            "can_follow": Out(1),
            "asked": In(slot),
            "waits": Out(1),
            "wake": In(stream.Signature(data.StructLayout({"slot": slot, "refused": 1}))),
            "valid": Out(1),
            "payload": Out(request),
            "loads": Out(1),
            "loaded": Out(request),
            "of": Out(slot),
            "refused": Out(1),
            "last": Out(1),
            "next_is_last": Out(1),
            "begun": Out(1),
            "starts": Out(1),
            "ends": Out(1),
            "next_valid": Out(1),
            "next_of": Out(slot),
            "pop": In(1),
            "leave": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        slots, places = max(2, self._config.cache_pages), self._config.requests_in_flight
        index = range(places)
        m.submodules.turns = turns = Fifo(self.wake.payload.shape(), slots + 2)
        chain(m, self.wake, turns)
        # A place is written before anything leads to it, so never read in that clock.
        m.submodules.requests = requests = memory.Memory(shape=self._request, depth=places, init=[],
                                                         attrs={"no_rw_check": 1})
        m.submodules.nexts = nexts = memory.Memory(shape=index, depth=places, init=[])
        m.submodules.heads = heads = memory.Memory(shape=index, depth=slots, init=[])
        m.submodules.tails = tails = memory.Memory(shape=index, depth=slots, init=[])
        request_write, request_read = requests.write_port(), requests.read_port()
        next_write = nexts.write_port()
        next_read, second_read = [nexts.read_port(domain="comb") for _ in range(2)]
        head_write, head_read = heads.write_port(), heads.read_port(domain="comb")
        tail_write = tails.write_port()
        tail_read, last_read, ahead_last_read = [tails.read_port(domain="comb") for _ in range(3)]
        filled = Signal(slots)

        place = self._places(m, places)
        current, following = Signal(index), next_read.data
        ends, starts, loading = self.ends, self.starts, Signal()
        joined, appends, target = Signal(len(self.slot)), Signal(), Signal(len(self.slot))
        m.d.comb += [
            appends.eq(self.push | self.follow),
            target.eq(Mux(self.follow, joined, self.slot)),
            request_write.addr.eq(place),
            request_write.data.eq(self.pushed),
            request_write.en.eq(appends),
            tail_read.addr.eq(target),
            tail_write.addr.eq(target),
            tail_write.data.eq(place),
            tail_write.en.eq(appends),
            next_write.addr.eq(tail_read.data),
            next_write.data.eq(place),
            next_write.en.eq(self.follow | (self.push & filled.bit_select(self.slot, 1))),
            last_read.addr.eq(self.of),
            head_read.addr.eq(turns.o.p.slot),
            # While the last request leaves none can come after it.
            self.room.eq(self._has_place & ~(self.valid & self.last & (self.of == self.slot))),
            self.can_follow.eq(self._has_place & filled.bit_select(joined, 1)
                               & ~(self.valid & self.last & (self.of == joined))),
            self.waits.eq(filled.bit_select(self.asked, 1)),
            ends.eq(self.valid & (self.leave | (self.pop & self.last))),
            self.begun.eq(self.valid | loading),
            self.next_valid.eq(turns.o.valid),
            self.next_of.eq(turns.o.p.slot),
            starts.eq(turns.o.valid & ((ends & self.last) | ~self.begun)),
            turns.o.ready.eq(starts),
        ]
        with m.If(starts):
            m.d.sync += [self.of.eq(turns.o.p.slot), self.refused.eq(turns.o.p.refused)]
        with m.Elif(self.pop):
            m.d.sync += self.refused.eq(0)

        # The memory has been read, at `ahead`, for the request behind that in `payload`, or for the head of the list
        # whose turn is next; while `loading` for the one that `payload` lacks. What is read does not hang on who takes
        # it, only whether something is: `pop` and `leave` are known late.
        is_next, is_head, has_ahead = Signal(), Signal(), Signal()
        ahead, ahead_of = Signal(index), Signal(len(self.slot))
        moves, behind_ahead, is_last = Signal(), Signal(), Signal()
        ahead_is_last = ahead == ahead_last_read.data
        m.d.comb += [
            next_read.addr.eq(current),
            second_read.addr.eq(ahead),
            ahead_of.eq(Mux(is_head, turns.o.p.slot, self.of)),
            ahead_last_read.addr.eq(ahead_of),
            # A head is not what comes next, if a request was appended since.
            has_ahead.eq(is_next | (is_head & self.last)),
            moves.eq(Mux(ends, starts & is_head, self.pop) & has_ahead),
            is_last.eq(Mux(loading, current == last_read.data, self.last)),
            behind_ahead.eq(Mux(has_ahead, ~ahead_is_last, self.begun & ~is_last)),
            request_read.addr.eq(Mux(behind_ahead, Mux(has_ahead, second_read.data, following), head_read.data)),
            request_read.en.eq(moves | ~has_ahead),
        ]
        m.d.sync += [
            loading.eq(~has_ahead & (starts | (self.pop & ~ends))),
            self.next_is_last.eq(Mux(moves, second_read.data == ahead_last_read.data, following == last_read.data)),
        ]
        with m.If(moves):
            m.d.sync += [is_next.eq(behind_ahead), is_head.eq(~behind_ahead & turns.o.valid & ~starts)]
        with m.Elif(ends | starts | (~has_ahead & self.pop)):
            m.d.sync += [is_next.eq(0), is_head.eq(0)]
        with m.Elif(~has_ahead):
            m.d.sync += [is_next.eq(behind_ahead), is_head.eq(~behind_ahead & turns.o.valid & self.begun)]
        with m.If(request_read.en):
            m.d.sync += ahead.eq(request_read.addr)
        with m.If(moves):
            m.d.sync += current.eq(ahead)
        with m.Elif(starts | self.pop):
            m.d.sync += current.eq(request_read.addr)
        with m.If(moves):
            m.d.sync += self.last.eq(ahead_is_last & ~(appends & (target == ahead_of)))
        with m.Else():
            m.d.sync += self.last.eq(is_last & ~(appends & (target == self.of)))
        m.d.comb += [self.loads.eq(moves | loading), self.loaded.eq(request_read.data)]
        with m.If(self.loads):
            m.d.sync += [self.payload.eq(self.loaded), self.valid.eq(1)]
        with m.Elif(self.pop | self.leave):
            m.d.sync += self.valid.eq(0)

        # A list is empty when it gets a head by `push`, and has its turn when it gets one by `leave`.
        with m.If(self.leave):
            m.d.comb += [
                head_write.addr.eq(self.of),
                head_write.data.eq(Mux(self.pop, following, current)),
                head_write.en.eq(1),
            ]
        with m.Else():
            m.d.comb += [
                head_write.addr.eq(self.slot),
                head_write.data.eq(place),
                head_write.en.eq(self.push & ~filled.bit_select(self.slot, 1)),
            ]
        with m.If(self.pop & self.last):
            m.d.sync += filled.bit_select(self.of, 1).eq(0)
        with m.If(appends):
            m.d.sync += joined.eq(target)
        with m.If(self.push):
            m.d.sync += filled.bit_select(self.slot, 1).eq(1)
        m.d.comb += [self._freed.i.payload.eq(current), self._freed.i.valid.eq(self.pop)]
        return m

    def _places(self, m, places):
        """The place of the next request, if there is one: those never used first, then those that were given back."""
        m.submodules.freed = self._freed = freed = Fifo((places - 1).bit_length(), places + 1)
        fresh = Signal(range(places + 1))
        all_used = fresh == places
        self._has_place = Signal()
        place = Signal(range(places))
        m.d.comb += [
            self._has_place.eq(~all_used | freed.o.valid),
            place.eq(Mux(all_used, freed.o.payload, fresh)),
            freed.o.ready.eq((self.push | self.follow) & all_used),
        ]
        with m.If((self.push | self.follow) & ~all_used):
            m.d.sync += fresh.eq(fresh + 1)
        return place
