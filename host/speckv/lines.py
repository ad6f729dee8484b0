"""Batches of line requests."""

import numpy as np

from speckv_model.constants import PAGE_BITS, ReqOpcode
from speckv_model.cxl import messages


def reads_with_hints(addresses, lookahead, ld_id):
    """Reads of the byte `addresses` (n), each new page among them announced `lookahead` pages ahead.

    The hints (MemSpecRd) let the device fetch pages ahead of use; 0 sends none.

    Returns
    -------
    requests : REQUEST, (n + hints)
    is_read : bool, (n + hints)
        Which of them are the reads.
    """
    is_read = np.ones(addresses.size, bool)
    if lookahead < 1:
        return messages.reads(addresses, ld_id=ld_id), is_read
    pages = addresses >> np.uint64(PAGE_BITS)
    begins = np.flatnonzero(np.diff(pages, prepend=~pages[:1]))
    before = begins[np.maximum(np.arange(1, begins.size) - lookahead, 0)]
    is_read = np.insert(is_read, before, False)
    requests = messages.reads(np.insert(addresses, before, addresses[begins[1:]]), ld_id=ld_id)
    requests["opcode"][~is_read] = ReqOpcode.MEM_SPEC_RD
    requests["expect"] = messages.expected(requests)
    return requests, is_read


def runs(indices):
    """Ranges (first, last + 1) of neighbours in the sorted integers `indices`: list of pairs."""
    indices = np.asarray(indices)
    if not indices.size:
        return []
    breaks = np.flatnonzero(np.diff(indices) > 1)
    firsts = indices[np.concatenate([[0], breaks + 1])]
    lasts = indices[np.concatenate([breaks, [indices.size - 1]])]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts)]
