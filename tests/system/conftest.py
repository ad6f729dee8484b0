"""The whole way from arrays to the device and back, over every link."""

import os

import pytest

import speckv

SEED = int(os.environ.get("SPECKV_SEED", "1"))


@pytest.fixture(params=["emu:small", "sim:small"])
def url(request):
    return request.param


@pytest.fixture
def device(url):
    with speckv.open(url) as device:
        yield device


@pytest.fixture
def seed():
    print(f"SPECKV_SEED={SEED}")
    return SEED
