"""Random traffic over several contexts, to two devices in lock step, compared line by line."""

import json

import pytest

from speckv import soak


@pytest.mark.parametrize("link, ops", [("emu", 40_000), ("sim", 20_000)])
def test_two_devices_never_differ(link, ops, seed, tmp_path):
    result = soak.main(link=link, ops=ops, seed=seed, reports=tmp_path)
    assert result["mismatches"] == 0, result["described"]
    assert result["ops"] >= ops
    assert json.loads((tmp_path / "soak.json").read_text()) == result


def test_a_difference_is_found(tmp_path, monkeypatch):
    """A device under test that answers one line wrongly is caught."""
    from speckv.link.emulated import EmulatedLink
    submit = EmulatedLink.submit

    def wrong_once(link, requests):
        responses = submit(link, requests)
        read = responses["kind"] & 2 != 0
        if link.config.cache_pages > 1 and read.any() and not hasattr(link, "was_wrong"):
            link.was_wrong = True
            responses["data"][read.argmax(), 5] ^= 1
        return responses

    monkeypatch.setattr(EmulatedLink, "submit", wrong_once)
    result = soak.main(link="emu", ops=500, seed=1, reports=tmp_path)
    assert result["mismatches"] == 1 and len(result["described"]) == 1
