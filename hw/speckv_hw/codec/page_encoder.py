from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import PAGE_LINES

from ..stream import Fifo, transfer
from ..types import LINE_BITS, SETTING_WIDTH, Codec, Dtype, EncodeResult, EncodeStart, StoredLine
from .lossless_encoder import LosslessEncoder
from .quantised_encoder import QuantisedEncoder
from .raw_encoder import RawEncoder
from .speckv_encoder import SpeckvEncoder

__all__ = ["PageEncoder"]

_PAGES = 4
"""Pages that can be in the encoders at once; one whose lines are coming in, one that goes out, and one that
waits at either end of the pipeline."""


class PageEncoder(wiring.Component):
    """Encodes pages by the codec that each one names; a codec that is not built in means `raw`.

    `lanes` values a clock and one clock between pages; the next page comes in while the one before goes out.
    Results are in the order of the starts, each after its last stored line. A `lossless` page that follows one of
    another codec waits until all `lossless` ones before that are done. Empty on reset.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    start : In(stream(EncodeStart))
        Before the lines of a page.
    lines : In(stream(512))
        The 64 lines of a page, in order.
    stored : Out(stream(StoredLine))
        Lines of the encoded page in any order, each once. Meaningless if the page turns out not to fit. Those marked
        `ahead` belong to the page after the one whose result comes next.
    result : Out(stream(EncodeResult))
        Of `raw` pages `fits` is always set.
    """

    def __init__(self, config):
        self._config = config
        super().__init__({
            "start": In(stream.Signature(EncodeStart)),
            "lines": In(stream.Signature(LINE_BITS)),
            "stored": Out(stream.Signature(StoredLine)),
            "result": Out(stream.Signature(EncodeResult)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.raw = raw = RawEncoder()
        encoders = self._encoders(m)

        m.submodules.order = order = Fifo(Codec, _PAGES)
        codec = Signal(Codec)
        dtype = Signal(Dtype)
        by_row = Signal()
        setting = Signal(SETTING_WIDTH)
        line = Signal(range(PAGE_LINES))
        busy = Signal()
        # Lines that leave ahead may be those of the very next page only.
        runs_ahead = self.start.p.codec == Codec.LOSSLESS
        unfinished = Signal(range(_PAGES + 1))
        m.d.sync += unfinished.eq(unfinished + (transfer(self.start) & runs_ahead)
                                  - (transfer(self.result) & (order.o.payload == Codec.LOSSLESS)))
        free = ~busy & ~(runs_ahead & (codec != Codec.LOSSLESS) & (unfinished != 0))
        m.d.comb += [
            self.start.ready.eq(free & order.i.ready),
            order.i.valid.eq(self.start.valid & free),
            order.i.payload.eq(self.start.payload.codec),
        ]
        with m.If(transfer(self.start)):
            m.d.sync += [
                busy.eq(1),
                codec.eq(self.start.payload.codec),
                dtype.eq(self.start.payload.dtype),
                by_row.eq(self.start.payload.by_row),
                setting.eq(self.start.payload.setting),
            ]
        with m.Elif(transfer(self.lines)):
            m.d.sync += [line.eq(line + 1), busy.eq(line != PAGE_LINES - 1)]

        # To all of them: a line that is hidden from the others would cost a gate for each of its bits.
        for encoder in (raw, *(encoder for _, encoder in encoders)):
            m.d.comb += [
                encoder.lines.payload.data.eq(self.lines.payload),
                encoder.lines.payload.codec.eq(codec),
                encoder.lines.payload.dtype.eq(dtype),
                encoder.lines.payload.by_row.eq(by_row),
                encoder.lines.payload.setting.eq(setting),
            ]

        def feed(encoder):
            m.d.comb += [
                encoder.lines.valid.eq(self.lines.valid & busy),
                self.lines.ready.eq(encoder.lines.ready & busy),
            ]

        def drain(encoder):
            for ours, theirs in ((self.stored, encoder.stored), (self.result, encoder.result)):
                m.d.comb += [
                    ours.payload.eq(theirs.payload),
                    ours.valid.eq(theirs.valid & order.o.valid),
                    theirs.ready.eq(ours.ready & order.o.valid),
                ]

        for connect, selected in ((feed, codec), (drain, order.o.payload)):
            with m.Switch(selected):
                for codecs, encoder in encoders:
                    with m.Case(*codecs):
                        connect(encoder)
                with m.Default():
                    connect(raw)
        m.d.comb += order.o.ready.eq(transfer(self.result))
        return m

    def _encoders(self, m):
        """Encoders beside that of `raw`: pairs of the codecs that one encodes and itself."""
        lanes, has = self._config.lanes, self._config.has_codec
        encoders = []
        if has(Codec.SPECKV.value):
            m.submodules.speckv = speckv = SpeckvEncoder(lanes)
            encoders.append(([Codec.SPECKV], speckv))
        if has(Codec.LOSSLESS.value):
            m.submodules.lossless = lossless = LosslessEncoder(lanes)
            encoders.append(([Codec.LOSSLESS], lossless))
        quantised = [codec for codec in (Codec.FIXED, Codec.VARIABLE) if has(codec.value)]
        if quantised:
            m.submodules.quantised = encoder = QuantisedEncoder(lanes)
            encoders.append((quantised, encoder))
        return encoders
