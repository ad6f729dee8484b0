"""Golden model of the CXL.mem endpoint: requests in, responses out."""

from enum import IntEnum

import numpy as np

from ..constants import (
    LINE_BYTES,
    PAGE_BITS,
    PAGE_LINES,
    DrsOpcode,
    ErrorKind,
    MetaField,
    NdrOpcode,
    ReqOpcode,
    RwdOpcode,
)
from .messages import RESPONSE, Channel, Expect, completion, expected

ADDRESS_MASK = np.uint64(2**52 - 1)
LINE_SHIFT = LINE_BYTES.bit_length() - 1
ALL_BYTES = np.uint64(2**64 - 1)


class Access(IntEnum):
    """What becomes of a request."""
    DONE = 0
    """It is only completed: MemInv, MemInvNT, MemWrPtl that enables no byte."""
    READ = 1
    HINT = 2
    WRITE = 3
    POISON = 4
    """A write of poison."""
    OUTSIDE_READ = 5
    OUTSIDE_WRITE = 6
    OUTSIDE_HINT = 7
    UNKNOWN = 8


KINDS = np.full((2, 256), Access.UNKNOWN, np.uint8)
"""`Access` by channel and opcode, before address, poison and byte enables are looked at."""
KINDS[Channel.REQ, [ReqOpcode.MEM_RD, ReqOpcode.MEM_RD_DATA]] = Access.READ
KINDS[Channel.REQ, [ReqOpcode.MEM_INV, ReqOpcode.MEM_INV_NT]] = Access.DONE
KINDS[Channel.REQ, ReqOpcode.MEM_SPEC_RD] = Access.HINT
KINDS[Channel.RWD, [RwdOpcode.MEM_WR, RwdOpcode.MEM_WR_PTL]] = Access.WRITE

OUTSIDE = np.arange(len(Access), dtype=np.uint8)
"""`Access` of a request whose address is in no context of the asker's."""
OUTSIDE[Access.READ] = Access.OUTSIDE_READ
OUTSIDE[Access.WRITE] = Access.OUTSIDE_WRITE
OUTSIDE[Access.HINT] = Access.OUTSIDE_HINT

EVENTS = {
    (Channel.REQ, ReqOpcode.MEM_RD): "REQ_READS",
    (Channel.REQ, ReqOpcode.MEM_RD_DATA): "REQ_READS",
    (Channel.REQ, ReqOpcode.MEM_SPEC_RD): "REQ_HINTS",
    (Channel.REQ, ReqOpcode.MEM_INV): "REQ_INVALIDATES",
    (Channel.REQ, ReqOpcode.MEM_INV_NT): "REQ_INVALIDATES",
    (Channel.RWD, RwdOpcode.MEM_WR): "REQ_WRITES",
    (Channel.RWD, RwdOpcode.MEM_WR_PTL): "REQ_PARTIAL_WRITES",
}
"""Counter of a channel's opcode; REQ_OTHER for all others."""


class Endpoint:
    """Turns batches of requests into accesses of the page cache, one after the other, and answers them.

    An address outside the window, outside any context or in another owner's context: a read gets MemData-NXM
    with zeros, a write is completed without effect, both are logged; a hint is dropped. Opcodes that are not
    known are completed and logged. Requests that follow each other on one page are handled together.

    Source: CXL 2.0 sections 3.3 and 8.2.5.12 (HDM decoder).

    Parameters
    ----------
    config : DeviceConfig
    contexts : ContextTable
    cache : PageCache
    prefetcher : Prefetcher
    csr : CsrModel
        Has the base of the window, the error log and the counters.
    """

    def __init__(self, config, contexts, cache, prefetcher, csr):
        self._config = config
        self._contexts = contexts
        self._cache = cache
        self._prefetcher = prefetcher
        self._csr = csr

    def submit(self, requests):
        """Serves `requests` (`REQUEST`, (n,)) in order.

        Returns what they are answered with: `RESPONSE`, (n,).
        """
        responses = self._responses(requests)
        if not len(requests):
            return responses
        self._count(requests)
        page, line, context = self._locate(requests)
        kind = KINDS[requests["channel"] & 1, requests["opcode"]]
        kind = np.where(context < 0, OUTSIDE[kind], kind)
        responses["drs_opcode"][kind == Access.OUTSIDE_READ] = DrsOpcode.MEM_DATA_NXM
        byte_enable = np.where(requests["opcode"] == RwdOpcode.MEM_WR_PTL, requests["byte_enable"], ALL_BYTES)
        is_write = kind == Access.WRITE
        kind[is_write & (byte_enable == 0)] = Access.DONE
        kind[is_write & (requests["poison"] != 0)] = Access.POISON

        streams = {int(number): self._stream(int(number)) for number in np.unique(context) if number >= 0}
        run = kind.astype(np.int64) | (context.astype(np.int64) + 1) << 4 | page << 20
        starts = np.concatenate([[0], np.flatnonzero(np.diff(run)) + 1, [len(run)]])
        heads = starts[:-1]
        data, poison = responses["data"], responses["poison"]
        new_data = requests["data"]
        columns = heads, starts[1:], kind[heads], context[heads], page[heads]
        for start, stop, access, number, where in zip(*(column.tolist() for column in columns)):
            lines, stream = line[start:stop], streams.get(number)
            if access == Access.READ:
                data[start:stop], poison[start:stop] = self._cache.read(where, stream, lines)
            elif access == Access.WRITE:
                self._cache.write(where, stream, lines, new_data[start:stop], byte_enable[start:stop])
            elif access == Access.POISON:
                self._cache.write_poison(where, stream, lines)
            elif access == Access.HINT:
                for _ in lines:
                    self._prefetcher.hint(where, stream)
            elif access == Access.OUTSIDE_READ:
                self._log(ErrorKind.READ_OUTSIDE, where, lines)
            elif access == Access.OUTSIDE_WRITE:
                self._log(ErrorKind.WRITE_OUTSIDE, where, lines)
            elif access == Access.UNKNOWN:
                self._log_opcodes(requests[start:stop], where, lines)
        return responses

    def _responses(self, requests):
        """Everything in the responses that does not depend on the device's content."""
        responses = np.zeros(len(requests), RESPONSE)
        kind = responses["kind"] = expected(requests)
        answered = kind != Expect.NONE
        responses["meta_field"][answered] = MetaField.NO_OP
        responses["ld_id"] = np.where(answered, requests["ld_id"], 0)
        responses["drs_opcode"] = DrsOpcode.MEM_DATA
        is_known_req = (requests["channel"] == Channel.REQ) & (KINDS[0, requests["opcode"]] != Access.UNKNOWN)
        completions = completion(requests["meta_field"], requests["meta_value"])
        chosen = is_known_req & (kind & Expect.NDR != 0)
        responses["ndr_opcode"] = np.where(chosen, completions, NdrOpcode.CMP)
        return responses

    def _locate(self, requests):
        """Window page and line of each request (int64) and the context that it may access (-1: none)."""
        offset = (requests["address"] - np.uint64(self._csr.hdm_base)) & ADDRESS_MASK
        inside = offset < np.uint64(self._config.window_bytes) if self._csr.hdm_committed else False
        offset = (offset & np.uint64(self._config.window_bytes - 1)).astype(np.int64)
        page, line = offset >> PAGE_BITS, (offset >> LINE_SHIFT) & (PAGE_LINES - 1)
        return page, line, np.where(inside, self._contexts.find(page, requests["ld_id"]), -1)

    def _stream(self, context):
        return self._contexts.record(context).stream_info(context)

    def _count(self, requests):
        codes = (requests["channel"] & 1).astype(np.int64) << 8 | requests["opcode"]
        opcodes = np.bincount(codes)
        for code in np.flatnonzero(opcodes).tolist():
            self._csr.counters.add(EVENTS.get(divmod(code, 256), "REQ_OTHER"), opcodes[code])

    def _log(self, kind, page, lines):
        for line in lines.tolist():
            self._csr.errors.record(kind, page << PAGE_BITS | line << LINE_SHIFT)

    def _log_opcodes(self, requests, page, lines):
        for request, line in zip(requests, lines.tolist()):
            is_req = request["channel"] == Channel.REQ
            self._csr.errors.record(ErrorKind.BAD_REQ_OPCODE if is_req else ErrorKind.BAD_RWD_OPCODE,
                                    page << PAGE_BITS | line << LINE_SHIFT, request["opcode"])
