"""Lets commands act on pages through the page cache."""

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.cache.messages import CacheOp, CacheRequest, PrefetchProposal, Source
from speckv_hw.csr.page_op import PageOp, PageOpDone, PageOpKind
from speckv_hw.stream import transfer
from speckv_hw.types import Status

__all__ = ["PageOpPort"]


class PageOpPort(wiring.Component):
    """Turns the page operations of a command into requests of the page cache, or into proposals to prefetch.

    One operation at a time; it ends when the page cache says so, a proposal when the prefetcher takes it. Idle on
    reset.

    Members
    -------
    page_op, page_op_done : from and to the command engine
    request, op_done : to the endpoint, which puts it in line with the host's requests; from the page cache
    prefetch : Out(stream of PrefetchProposal)
    """

    def __init__(self):
        super().__init__({
            "page_op": In(stream.Signature(PageOp)),
            "page_op_done": Out(stream.Signature(PageOpDone)),
            "request": Out(stream.Signature(CacheRequest)),
            "op_done": In(stream.Signature(Source)),
            "prefetch": Out(stream.Signature(PrefetchProposal)),
        })

    def elaborate(self, platform):
        m = Module()
        op = self.page_op.p
        m.d.comb += [
            self.request.p.op.eq(Mux(op.kind == PageOpKind.SEAL, CacheOp.SEAL,
                                     Mux(op.kind == PageOpKind.FREE, CacheOp.FREE, CacheOp.FLUSH))),
            self.request.p.page.eq(op.page),
            self.request.p.stream.eq(op.stream),
            self.prefetch.p.page.eq(op.page),
            self.prefetch.p.stream.eq(op.stream),
            self.page_op_done.p.status.eq(Status.OK),
        ]
        with m.FSM():
            with m.State("ASK"):
                with m.If(op.kind == PageOpKind.PREFETCH):
                    m.d.comb += self.prefetch.valid.eq(self.page_op.valid)
                with m.Else():
                    m.d.comb += self.request.valid.eq(self.page_op.valid)
                m.d.comb += self.page_op.ready.eq(transfer(self.request) | transfer(self.prefetch))
                with m.If(transfer(self.prefetch)):
                    m.next = "DONE"
                with m.If(transfer(self.request)):
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.comb += self.op_done.ready.eq(1)
                with m.If(self.op_done.valid):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.page_op_done.valid.eq(1)
                with m.If(self.page_op_done.ready):
                    m.next = "ASK"
        return m
