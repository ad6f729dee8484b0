from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import PAGE_LINES, ROW_LINES

from ..stream import Fifo, transfer
from ..types import LINE_BITS, Codec, DecodeStart
from .lossless_decoder import LosslessDecoder
from .quantised_decoder import QuantisedDecoder
from .raw_decoder import RawDecoder
from .speckv_decoder import SpeckvDecoder

__all__ = ["PageDecoder"]

_PAGES = 4
"""Pages that can be in the decoders at once; one whose lines are coming in, one that goes out, and one that
waits at either end of the pipeline."""


class PageDecoder(wiring.Component):
    """Decodes pages by the codec that each one names; a codec that is not built in means `raw`.

    `lanes` values a clock; the next page comes in while the one before goes out. Order kept. Any stored bytes
    give 64 lines. Empty on reset.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    start : In(stream(DecodeStart))
        Before the stored lines of a page.
    stored : In(stream(512))
        Exactly as many lines as the start says, in order.
    lines : Out(stream(512))
        The 64 lines of the page, in order; of a single row its four.
    bad_row : Out
        The single row whose last line was taken last failed its check.
    """

    def __init__(self, config):
        self._config = config
        super().__init__({
            "start": In(stream.Signature(DecodeStart)),
            "stored": In(stream.Signature(LINE_BITS)),
            "lines": Out(stream.Signature(LINE_BITS)),
            "bad_row": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.raw = raw = RawDecoder()
        decoders = self._decoders(m)

        m.submodules.order = order = Fifo(data.StructLayout({"codec": Codec, "single": 1}), _PAGES)
        codec = Signal(Codec)
        left = Signal.like(self.start.payload.lines)
        line = Signal(range(PAGE_LINES))
        free = (left == 0) & order.i.ready

        # To all of them: a line that is hidden from the others would cost a gate for each of its bits.
        for decoder in (raw, *(decoder for _, decoder in decoders)):
            m.d.comb += [
                decoder.start.payload.eq(self.start.payload),
                decoder.stored.payload.eq(self.stored.payload),
            ]

        def begin(decoder):
            m.d.comb += [
                decoder.start.valid.eq(self.start.valid & free),
                self.start.ready.eq(decoder.start.ready & free),
            ]

        def feed(decoder):
            m.d.comb += [
                decoder.stored.valid.eq(self.stored.valid & (left != 0)),
                self.stored.ready.eq(decoder.stored.ready & (left != 0)),
            ]

        def drain(decoder):
            m.d.comb += [
                self.lines.payload.eq(decoder.lines.payload),
                self.lines.valid.eq(decoder.lines.valid & order.o.valid),
                decoder.lines.ready.eq(self.lines.ready & order.o.valid),
            ]

        for connect, selected in ((begin, self.start.payload.codec), (feed, codec), (drain, order.o.p.codec)):
            with m.Switch(selected):
                for codecs, decoder in decoders:
                    with m.Case(*codecs):
                        connect(decoder)
                with m.Default():
                    connect(raw)

        m.d.comb += [
            order.i.p.codec.eq(self.start.payload.codec),
            order.i.p.single.eq(self.start.payload.single),
            order.i.valid.eq(transfer(self.start)),
        ]
        with m.If(transfer(self.start)):
            m.d.sync += [codec.eq(self.start.payload.codec), left.eq(self.start.payload.lines)]
        with m.If(transfer(self.stored)):
            m.d.sync += left.eq(left - 1)

        last = line == Mux(order.o.p.single, ROW_LINES - 1, PAGE_LINES - 1)
        m.d.comb += order.o.ready.eq(transfer(self.lines) & last)
        with m.If(transfer(self.lines)):
            m.d.sync += line.eq(Mux(last, 0, line + 1))
        return m

    def _decoders(self, m):
        """Decoders beside that of `raw`: pairs of the codecs that one decodes and itself."""
        lanes, has = self._config.lanes, self._config.has_codec
        decoders = []
        if has(Codec.SPECKV.value):
            m.submodules.speckv = speckv = SpeckvDecoder(lanes)
            decoders.append(([Codec.SPECKV], speckv))
        if has(Codec.LOSSLESS.value):
            m.submodules.lossless = lossless = LosslessDecoder(lanes)
            decoders.append(([Codec.LOSSLESS], lossless))
        quantised = [codec for codec in (Codec.FIXED, Codec.VARIABLE) if has(codec.value)]
        if quantised:
            m.submodules.quantised = decoder = QuantisedDecoder(lanes)
            decoders.append((quantised, decoder))
            m.d.comb += self.bad_row.eq(decoder.bad_row)
        return decoders
