"""Random messages, commands and register accesses: each is answered as the model says, and nobody else suffers."""

import json

import pytest

from speckv import fuzz
from speckv.link.emulated import EmulatedLink


@pytest.mark.parametrize("link, rounds", [("emu", 400), ("sim", 40)])
def test_whatever_a_host_does(link, rounds, seed, tmp_path):
    result = fuzz.main(link=link, rounds=rounds, seed=seed, reports=tmp_path)
    assert result["mismatches"] == result["hangs"] == 0, result["described"]
    assert result["requests"] > 10 * rounds and result["commands"] > rounds // 4
    assert json.loads((tmp_path / "fuzz.json").read_text()) == result


def test_a_bystander_that_is_hit_is_noticed(tmp_path, monkeypatch):
    """With a device under test that takes any owner for the bystander's, the writes of others reach it."""
    submit, links = EmulatedLink.submit, []

    def everyone_is_the_owner(link, requests):
        if link not in links:
            links.append(link)
        if link is links[0]:
            requests = requests.copy()
            requests["ld_id"] = fuzz.OWNER
        return submit(link, requests)

    monkeypatch.setattr(EmulatedLink, "submit", everyone_is_the_owner)
    result = fuzz.main(link="emu", rounds=60, seed=1, reports=tmp_path)
    assert result["bystander_lines"] > 0 and result["mismatches"] > 0
