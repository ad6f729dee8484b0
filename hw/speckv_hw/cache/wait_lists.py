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
    One request a clock in and one out, lists without a gap between them. `push` and `leave` not in one clock. Empty on
    reset.

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
    pop, leave : In
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
            "of": Out(slot),
            "refused": Out(1),
            "last": Out(1),
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
        next_write, next_read = nexts.write_port(), nexts.read_port(domain="comb")
        head_write, head_read = heads.write_port(), heads.read_port(domain="comb")
        tail_write = tails.write_port()
        tail_read, last_read = [tails.read_port(domain="comb") for _ in range(2)]
        filled = Signal(slots)

        place = self._places(m, places)
        current, following = Signal(index), next_read.data
        starts, stays = Signal(), Signal()
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
            next_read.addr.eq(current),
            last_read.addr.eq(self.of),
            head_read.addr.eq(turns.o.p.slot),
            # While the last request leaves none can come after it.
            self.room.eq(self._has_place & ~(self.valid & self.last & (self.of == self.slot))),
            self.can_follow.eq(self._has_place & filled.bit_select(joined, 1)
                               & ~(self.valid & self.last & (self.of == joined))),
            self.waits.eq(filled.bit_select(self.asked, 1)),
            self.last.eq(current == last_read.data),
            self.payload.eq(request_read.data),
            starts.eq(turns.o.valid & (~self.valid | self.leave | (self.pop & self.last))),
            stays.eq(self.valid & ~self.leave & ~(self.pop & self.last)),
            turns.o.ready.eq(starts),
            request_read.addr.eq(Mux(starts, head_read.data, Mux(self.pop, following, current))),
        ]
        m.d.sync += [current.eq(request_read.addr), self.valid.eq(starts | stays)]
        with m.If(starts):
            m.d.sync += [self.of.eq(turns.o.p.slot), self.refused.eq(turns.o.p.refused)]
        with m.Elif(self.pop):
            m.d.sync += self.refused.eq(0)

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
