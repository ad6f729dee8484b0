"""One setting for each stream, so that all of them together lose little and take no more than they may."""

import numpy as np

from speckv_model.constants import ENTRY_BYTES, PAGE_BYTES, SECTOR_BYTES

from ..capacity import capacity_ratio
from ..context import as_dtype
from .calibration import Calibration

ALTERNATIVES = 32
"""Choices near the best one of a size that are placed in the pool, when its loss counts."""


def budget(ratio):
    """Mean sectors of a page at which sectors and entries come to `ratio`."""
    return (PAGE_BYTES / ratio - ENTRY_BYTES) / SECTOR_BYTES


def ratio_at(sectors):
    """The inverse of `budget`."""
    return PAGE_BYTES / (sectors * SECTOR_BYTES + ENTRY_BYTES)


def allocate(sectors, loss, mean):
    """Chooses one setting for each stream so that all of them lose little together.

    Begins with the setting of the fewest sectors and takes the step, of one stream to any of its other settings, that
    saves most loss for each sector more, as long as the streams' mean stays within `mean`.

    Parameters
    ----------
    sectors, loss : float (streams, settings)
    mean : float
        Sectors of a page.

    Returns
    -------
    int64 (streams), indices of settings

    Raises
    ------
    ValueError
        Even the fewest sectors are more than `mean`.
    """
    streams = np.arange(len(sectors))
    # Of the smallest settings, the one that loses least.
    chosen = np.lexsort((loss, sectors), axis=-1)[:, 0]
    left = mean * len(sectors) - sectors[streams, chosen].sum() + 1e-9
    if left < 0:
        raise ValueError(f"mean must be at least {sectors.min(axis=1).mean():.3f} sectors a page, not {mean!r}")
    while True:
        more = sectors - sectors[streams, chosen][:, None]
        saved = loss[streams, chosen][:, None] - loss
        useful = (saved > 0) & (more <= left)
        if not useful.any():
            return chosen
        slope = np.where(useful, saved / np.maximum(more, 1e-9), -1)
        stream, setting = np.unravel_index(slope.argmax(), slope.shape)
        left -= more[stream, setting]
        chosen[stream] = setting


def allocate_in_pool(choices, ratio, config):
    """As `allocate`, for a `ratio` that the pool's loss counts in; for codecs whose pages have one size a setting.

    Of the best choice of each total size, and of those nearest to it, the one of least loss that holds `ratio`.
    """
    sectors, loss = np.rint(choices.sectors).astype(int), choices.loss
    streams = np.arange(len(sectors))
    best, least = None, np.inf
    for total in range(int(budget(ratio) * len(sectors)), sectors.min(axis=1).sum() - 1, -1):
        first = allocate(sectors, loss, total / len(sectors))
        if loss[streams, first].sum() >= least:
            break
        for chosen in _near(first, sectors, loss, total):
            lost = loss[streams, chosen].sum()
            if lost >= least:
                break
            if capacity_ratio(config, np.tile(sectors[streams, chosen], 200), len(sectors)) >= ratio:
                best, least = chosen, lost
                break
    if best is None:
        raise ValueError(f"ratio must be one that the smallest setting reaches in the pool, not {ratio!r}")
    return best


def _near(first, sectors, loss, total):
    """`first` and the choices that differ from it in two streams and keep within `total`, those of least loss first."""
    streams = np.arange(len(sectors))
    found = [first]
    for up in streams[first + 1 < sectors.shape[1]]:
        for down in streams[first > 0]:
            other = first.copy()
            other[up] += 1
            other[down] -= 1
            if up != down and sectors[streams, other].sum() <= total:
                found.append(other)
    return sorted(found, key=lambda chosen: loss[streams, chosen].sum())[:ALTERNATIVES]


def choose(choices, ratio, dtype, provenance, config=None):
    """The `Calibration` of least loss within `choices` that reaches `ratio`.

    Parameters
    ----------
    choices : Choices
    ratio : float
        Bytes of K and V to bytes of sectors and page table entries.
    dtype : dtype
    provenance : dict
    config : DeviceConfig, optional
        Where given, the loss of its pool counts in `ratio` (codec ``fixed`` only).

    Raises
    ------
    ValueError
        No setting reaches `ratio`.
    """
    if config is None:
        chosen = allocate(choices.sectors, choices.loss, budget(ratio))
    else:
        chosen = allocate_in_pool(choices, ratio, config)
    found = ratio_at(choices.sectors[np.arange(len(chosen)), chosen].mean())
    return Calibration(choices.streams(chosen), str(as_dtype(dtype)), found,
                       provenance | {"wanted_ratio": ratio, "pool": config is not None})
