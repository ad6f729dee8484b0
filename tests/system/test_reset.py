"""A reset in the middle of traffic: an empty and working device, and a driver that says what was lost."""

import numpy as np
import pytest

import speckv
from speckv.commands import COUNT_MASK
from speckv.traffic import kv_lines
from speckv_model.constants import LINE_BYTES, PAGE_LINES, DrsOpcode, Dtype, Opcode
from speckv_model.csr.registers import REGISTERS, command_slot_offset, pack_command
from speckv_model.cxl import messages

LINES = kv_lines(Dtype.FP16)


def addresses_of(context, pages):
    return context.address + LINE_BYTES * np.arange(pages * PAGE_LINES)


def reset_in_traffic(device, requests, clocks):
    """Resets the device `clocks` clocks after the begin of `requests`; without a clock, after that many requests."""
    if hasattr(device.link, "submit_and_reset"):
        device.link.submit_and_reset(requests, clocks)
    else:
        device.link.submit(requests[:clocks])
        device.link.reset()


def mixed(context, pages, seed):
    """Reads and writes of whole pages, in random order."""
    rng = np.random.default_rng(seed)
    addresses = addresses_of(context, pages)
    requests = np.concatenate([messages.writes(addresses, LINES[:addresses.size]), messages.reads(addresses)])
    return requests[rng.permutation(requests.size)]


@pytest.mark.parametrize("clocks", [1, 60, 333, 1500])
def test_reset_in_the_middle_of_traffic(device, clocks, seed):
    contexts = [device.create_context(1, 1, 128, 128, codec=codec) for codec in ("lossless", "fixed")]
    for context in contexts:
        device.store(addresses_of(context, 6), LINES[:6 * PAGE_LINES])
    reset_in_traffic(device, mixed(contexts[0], 12, seed), clocks)
    with pytest.raises(speckv.ContextsLost, match=r"<Context 0: .*<Context 1: .*recover\(\)") as caught:
        device.load(addresses_of(contexts[1], 1))
    assert caught.value.contexts == tuple(contexts)

    assert device.recover() == tuple(contexts)
    stats = device.stats()
    assert stats.pool_free_sectors == stats.pool_sectors
    again = device.create_context(1, 1, 128, 128, codec="fixed")
    addresses = addresses_of(again, 12)
    assert not device.load(addresses).any()
    device.store(addresses, LINES[:addresses.size])
    with speckv.open("emu:small") as twin:
        same = twin.create_context(1, 1, 128, 128, codec="fixed")
        twin.store(addresses_of(same, 12), LINES[:addresses.size])
        np.testing.assert_array_equal(device.load(addresses), twin.load(addresses_of(same, 12)))


def test_every_way_to_a_lost_context_says_so(device):
    context = device.create_context(1, 1, 128, 128)
    values = np.ones((20, 1, 128), np.float16)
    context.append(0, values, values)
    descriptors = device.load_descriptors([[[("raw", None), ("fixed", None)]]])
    with pytest.raises(ValueError, match="must have been reset"):
        device.recover()
    device.link.reset()
    for attempt in (lambda: context.read(0, 0, 20), context.seal, context.free, lambda: device.load(context.address),
                    lambda: device.create_context(1, 1, 128, 64)):
        with pytest.raises(speckv.ContextsLost, match="<Context 0: 1 layers") as caught:
            attempt()
        assert caught.value.contexts == (context,)
    assert device.recover() == (context,) and device.contexts == ()
    for attempt in (lambda: context.read(0, 0, 20), lambda: context.append(0, values, values), context.free):
        with pytest.raises(speckv.ContextsLost):
            attempt()
    with pytest.raises(speckv.DescriptorsFreed):
        device.create_context(1, 1, 128, 64, descriptors=descriptors)
    with device.create_context(1, 1, 128, 64) as other:
        other.append(0, values, values)
        assert device.reset() == (other,)
    assert device.reset() == ()


def test_a_tail_that_is_zero_is_not_taken_for_a_reset():
    with speckv.open("emu:small") as device:
        device.create_context(1, 1, 128, 64)
        slots = device.config.command_slots
        device.commands.run(*[dict(opcode=Opcode.NOP)] * slots)
        for tail in range(slots, COUNT_MASK, slots):
            device.link.mmio_write(REGISTERS.COMMAND_TAIL.offset, tail)
        device.commands.restart()
        device.commands.run(*[dict(opcode=Opcode.NOP)] * (COUNT_MASK + 1 - tail))
        assert device.link.mmio_read(REGISTERS.COMMAND_TAIL.offset) != 0 and not device.commands.was_reset
        device.link.reset()
        assert device.commands.was_reset


@pytest.mark.parametrize("clocks", [1, 40, 150, 400, 1000])
def test_a_context_that_ends_while_its_requests_are_under_way(url, clocks, seed):
    """Each is answered as if it came before or after; nothing stays behind."""
    with speckv.open(url) as device:
        other = device.create_context(1, 1, 128, 128)
        device.store(addresses_of(other, 2), LINES[:2 * PAGE_LINES])
        free = device.stats().pool_free_sectors
        context = device.create_context(1, 1, 128, 128)
        pages = 10
        requests = mixed(context, pages, seed)
        tail = device.link.mmio_read(REGISTERS.COMMAND_TAIL.offset)
        slot = command_slot_offset(tail % device.config.command_slots)
        for word, value in enumerate(pack_command(opcode=Opcode.DESTROY, context=context.number)):
            device.link.mmio_write(slot + 8 * word, value)
        tail += 1
        if hasattr(device.link, "submit_and_write"):
            responses = device.link.submit_and_write(requests, clocks, REGISTERS.COMMAND_TAIL.offset, tail)
        else:
            first = device.link.submit(requests[:clocks])
            device.link.mmio_write(REGISTERS.COMMAND_TAIL.offset, tail)
            responses = np.concatenate([first, device.link.submit(requests[clocks:])])
        device.link.mmio_poll(REGISTERS.COMMAND_HEAD.offset, 0xffff, tail)

        assert np.array_equal(responses["kind"], requests["expect"]) and not responses["poison"].any()
        is_read = requests["channel"] == messages.Channel.REQ
        line = ((requests["address"] - np.uint64(context.address)) // LINE_BYTES).astype(int)
        data, wanted = responses["data"][is_read], LINES[line[is_read]]
        assert np.all((data == wanted).all(axis=-1) | ~data.any(axis=-1)), "a line that nobody wrote"
        outside = responses["drs_opcode"][is_read] == DrsOpcode.MEM_DATA_NXM
        assert not data[outside].any()
        assert device.stats().pool_free_sectors == free
        gone = device.link.submit(messages.reads(addresses_of(context, 1)))
        assert np.all(gone["drs_opcode"] == DrsOpcode.MEM_DATA_NXM)
        np.testing.assert_array_equal(device.load(addresses_of(other, 2)), LINES[:2 * PAGE_LINES])
