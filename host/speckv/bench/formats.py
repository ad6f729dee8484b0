"""Formats of K and V that others use, behind the interface of `speckv.formats`. Each block of values lies in a page."""

from dataclasses import dataclass

import numpy as np
from ml_dtypes import float4_e2m1fn, float8_e4m3fn

from speckv_model.constants import PAGE_BYTES, PAGE_ROWS, ROW_VALUES

PAGE_VALUES = PAGE_ROWS * ROW_VALUES
E2M1_MAX = 6.0
E2M1_EXPONENT = 2
"""Exponent of the largest E2M1 number."""
E4M3_MAX = 448.0


class _Values:
    """A format of numbers: `round_trip` (float32 (streams, n, 2048) to the same) and `page_bytes`."""

    lossless = False
    setting = ""

    def code(self, layer, pages, dtype):
        values = self.round_trip(pages.view(dtype).astype(np.float32))
        return values.astype(dtype).view(np.uint8), np.full(pages.shape[:2], self.page_bytes)


def _blocks(values, size):
    return values.reshape(*values.shape[:-1], -1, size)


def _ratio(values, scale):
    """values / scale, 0 where the scale is 0."""
    return np.divide(values, scale, out=np.zeros_like(values), where=scale != 0)


def _e2m1(values):
    """The nearest E2M1 numbers, ties to even, saturating."""
    return np.clip(values, -E2M1_MAX, E2M1_MAX).astype(float4_e2m1fn).astype(np.float32)


def _e4m3(values):
    """The nearest E4M3 numbers, ties to even, saturating."""
    return np.clip(values, -E4M3_MAX, E4M3_MAX).astype(float8_e4m3fn).astype(np.float32)


@dataclass(frozen=True)
class Integers(_Values):
    """Symmetric integers of `bits`, every `block` values with an FP16 scale: their largest magnitude over the largest
    integer."""

    name: str
    bits: int
    block: int

    @property
    def page_bytes(self):
        return PAGE_VALUES * self.bits // 8 + PAGE_VALUES // self.block * 2

    def round_trip(self, values):
        blocks, top = _blocks(values, self.block), 2 ** (self.bits - 1) - 1
        scale = (np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(top)).astype(np.float16).astype(np.float32)
        return (np.clip(np.rint(_ratio(blocks, scale)), -top, top) * scale).reshape(values.shape)


@dataclass(frozen=True)
class Fp8(_Values):
    """E4M3 without a scale, saturating."""

    name: str = "FP8 E4M3"
    page_bytes: int = PAGE_VALUES

    def round_trip(self, values):
        return _e4m3(values)


@dataclass(frozen=True)
class Mxfp4(_Values):
    """E2M1 in blocks of 32 with a power of two (E8M0) as scale.

    Source: OCP Microscaling Formats 1.0: the scale's exponent is that of the block's largest magnitude less that of the
    largest E2M1 number; values saturate.
    """

    name: str = "MXFP4"
    block: int = 32

    @property
    def page_bytes(self):
        return PAGE_VALUES // 2 + PAGE_VALUES // self.block

    def round_trip(self, values):
        blocks = _blocks(values, self.block)
        exponent = np.frexp(np.abs(blocks).max(axis=-1, keepdims=True))[1] - 1 - E2M1_EXPONENT
        scale = np.ldexp(np.float32(1), np.clip(exponent, -127, 127))
        return (_e2m1(blocks / scale) * scale).reshape(values.shape)


@dataclass(frozen=True)
class Nvfp4(_Values):
    """E2M1 in blocks of 16 with an E4M3 scale, and one FP32 scale for a tensor: a layer's K or V of the sequence.

    The tensor's scale lets the largest block scale be 448; its four bytes are not counted.
    """

    name: str = "NVFP4"
    block: int = 16

    @property
    def page_bytes(self):
        return PAGE_VALUES // 2 + PAGE_VALUES // self.block

    def round_trip(self, values):
        # Streams alternate between K and V.
        tensors = values.reshape(-1, 2, *values.shape[1:])
        whole = np.abs(tensors).max(axis=(0, 2, 3), keepdims=True)[..., None] / np.float32(E2M1_MAX * E4M3_MAX)
        blocks = _blocks(tensors, self.block)
        scale = _e4m3(_ratio(np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(E2M1_MAX), whole)) * whole
        return (_e2m1(_ratio(blocks, scale)) * scale).reshape(values.shape)


@dataclass(frozen=True)
class Compressor:
    """A general compressor on the bytes of each page by itself; a page that does not shrink is kept as it is.

    Parameters
    ----------
    name : str
        ``zstd`` or ``LZ4``.
    level : int
        What the compressor calls level (zstd) or compression level (LZ4, its frame left out).
    """

    name: str
    level: int
    lossless = True

    @property
    def setting(self):
        return f"level {self.level}"

    def code(self, layer, pages, dtype):
        pack, unpack = self._functions()
        packed = [pack(page.tobytes()) for page in pages.reshape(-1, PAGE_BYTES)]
        stored = np.minimum([len(each) for each in packed], PAGE_BYTES).reshape(pages.shape[:2])
        decoded = np.frombuffer(b"".join(map(unpack, packed)), np.uint8)
        return decoded.reshape(pages.shape), stored

    def _functions(self):
        if self.name == "zstd":
            import zstandard

            packer = zstandard.ZstdCompressor(level=self.level, write_checksum=False, write_content_size=True)
            return packer.compress, zstandard.ZstdDecompressor().decompress
        from lz4 import block

        return (lambda page: block.compress(page, mode="high_compression", compression=self.level, store_size=False),
                lambda page: block.decompress(page, uncompressed_size=PAGE_BYTES))


REFERENCES = (Integers("INT8 row", 8, ROW_VALUES), Fp8(), Integers("INT4 group 32", 4, 32), Nvfp4(), Mxfp4(),
              Compressor("zstd", 19), Compressor("LZ4", 9))
"""What others use."""
