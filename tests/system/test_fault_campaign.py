"""A short campaign of faults, the same with a device that gives wrong data for one of them, and DRAM that is silent."""

import json

import numpy as np
import pytest

from speckv import faults
from speckv.faults.command import command
from speckv.link.emulated import EmulatedLink
from speckv.traffic import kv_lines
from speckv_model.constants import ENTRY_BYTES, LINE_BYTES, PAGE_BYTES, PAGE_LINES, Dtype, ErrorKind, Opcode
from speckv_model.csr.registers import REGISTERS
from speckv_model.mover import fetcher
from speckv_model.table.entry import Entry


@pytest.mark.parametrize("link, count", [("emu", 300), ("sim", 100)])
def test_nothing_is_silently_wrong(link, count, seed, tmp_path):
    result = faults.main(link=link, faults=count, seed=seed, reports=tmp_path)
    assert result["unexpected"] == result["silent_wrong"] == result["hangs"] == 0, result["described"]
    assert result["injected"] >= count and result["detected"] > 0.8 * count
    assert result["injected"] == sum(result[name] for name in ("detected", "harmless", "silent_wrong"))
    assert json.loads((tmp_path / "faults.json").read_text()) == result


def test_a_silent_fault_is_counted(tmp_path, monkeypatch):
    """A device that hides the poison of a page is caught."""
    submit, hidden = EmulatedLink.submit, []

    def hides(link, requests):
        responses = submit(link, requests)
        if responses["poison"].any() and not hidden:
            hidden.append(responses["poison"].copy())
            responses["poison"] = 0
        return responses

    monkeypatch.setattr(EmulatedLink, "submit", hides)
    result = faults.main(link="emu", faults=100, seed=1, reports=tmp_path)
    assert result["silent_wrong"] >= 1 and result["unexpected"] >= 1


def test_a_row_whose_check_misses_is_counted(tmp_path, monkeypatch):
    """Rows that are read alone are no exception: without their check the campaign fails."""
    monkeypatch.setattr(fetcher.fixed, "row_check", lambda body, rate: body[..., rate.check_at:rate.check_at + 2])
    with pytest.raises(SystemExit):
        command.callback(link="emu", preset="small", faults=200, seed=1, reports=tmp_path)
    result = json.loads((tmp_path / "faults.json").read_text())
    assert result["by_form"]["fixed by row"]["silent_wrong"] >= 1
    assert result["unexpected"] >= result["silent_wrong"] >= 1


def test_a_page_that_changes_without_a_fault_is_counted(tmp_path, monkeypatch):
    submit, calls = EmulatedLink.submit, []

    def changes(link, requests):
        responses = submit(link, requests)
        # The device under test alone reads all pages at once.
        if requests.size > 5000:
            calls.append(None)
            if len(calls) == 1:
                raw = requests["address"] < requests["address"].min() + 20 * PAGE_BYTES
                line = np.flatnonzero((responses["poison"] == 0) & raw)[0]
                responses["data"][line, 9] ^= 4
        return responses

    monkeypatch.setattr(EmulatedLink, "submit", changes)
    result = faults.main(link="emu", faults=100, seed=1, reports=tmp_path)
    assert calls and result["unexpected"] >= 1


def test_silent_dram(url):
    """Reads that DRAM does not answer become poison in time; when it answers after all nobody takes that for his."""
    import speckv
    with speckv.open(url) as device:
        device.link.mmio_write(REGISTERS.MEMORY_TIMEOUT.offset, REGISTERS.MEMORY_TIMEOUT.pack(clocks=2000))
        context = device.create_context(1, 1, 128, 64 * 16)
        pages = 32
        addresses = (context.address + PAGE_BYTES * np.arange(pages)[:, None] + LINE_BYTES * np.arange(PAGE_LINES))
        data = kv_lines(Dtype.FP16)[:pages * PAGE_LINES].reshape(pages, PAGE_LINES, LINE_BYTES)
        device.store(addresses, data)
        flush = dict(opcode=Opcode.FLUSH, context=0, first_page=context.first_page, pages=pages)
        device.commands.run(flush)
        for page in range(3):
            raw = device.link.dram_read(ENTRY_BYTES * (context.first_page + page), ENTRY_BYTES)
            line = device.config.sector_line(Entry.unpack(raw).place) + 5
            device.link.dram_fail(line, 1, response="none")
            _, poison = device.load(addresses[page], poison="mask")
            assert poison[5] and device.stats().last_error.kind == ErrorKind.MEMORY_READ
            np.testing.assert_array_equal(device.load(addresses[page + 10]), data[page + 10])
        device.link.dram_heal()
        device.commands.run(flush)
        np.testing.assert_array_equal(device.load(addresses), data)
