"""The comparison of formats: each reference format by hand, the store, the pool, and a short run."""

import io
import json
import os

import numpy as np
import pytest
from ml_dtypes import bfloat16
from rich.console import Console

from speckv import workers
from speckv.bench import codec as bench
from speckv.bench import codec_report
from speckv.bench.formats import Compressor, Fp8, Integers, Mxfp4, Nvfp4
from speckv.capacity import capacity_ratio, sectors_of
from speckv.formats import CodecFormat
from speckv.lm import ArrayStore, CodedStore, Damage
from speckv_model.config import DeviceConfig
from speckv_model.constants import PAGE_BYTES


def page_values(*values):
    """(2 streams, 1 page, 2048), zeros but for the first `values` of the first stream."""
    page = np.zeros((2, 1, 2048), np.float32)
    page[0, 0, :len(values)] = values
    return page


def first(form, *values):
    """What `form` makes of `values` at the begin of a page."""
    return form.round_trip(page_values(*values))[0, 0, :len(values)].tolist()


def test_integers():
    int8 = Integers("INT8 row", 8, 128)
    # Scale 1: ties to even. In the row of 254, scale 2.
    assert first(int8, 127, 0.5, 1.5, -2.5, -126.6) == [127, 0, 2, -2, -127]
    assert first(int8, 254, 1, 3, -254) == [254, 0, 4, -254]
    # The scale is rounded to FP16: 1/127 becomes 2064 * 2^-18.
    assert first(int8, 1) == [127 * 2064 / 2 ** 18]
    int4 = Integers("INT4 group 32", 4, 32)
    assert first(int4, *([7, 3.4, -0.6] + [0] * 29 + [14, 3, 0])) == [7, 3, -1] + [0] * 29 + [14, 4, 0]
    assert (int8.page_bytes, int4.page_bytes) == (2048 + 32, 1024 + 128)


def test_fp8():
    # 17 lies between 16 and 18, 19 between 18 and 20; 2^-9 is the least subnormal; what is too large saturates.
    assert first(Fp8(), 17, 19, 448, 1000, -1e30, 2 ** -9, 2 ** -10, 0.3) == [
        16, 20, 448, 448, -448, 2 ** -9, 0, 0.3125]


def test_mxfp4():
    # Largest 5: scale 2^(2 - 2) = 1. Ties go to the even code: 0.25 to 0, 0.75 to 1, 2.5 to 2, 3.5 and 5 to 4.
    assert first(Mxfp4(), 5, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, -0.3) == [4, 0, 1, 1, 2, 2, 4, -0.5]
    # 7.9 has the same scale and saturates; with 8 the scale is 2.
    assert first(Mxfp4(), 7.9, 1) == [6, 1]
    assert first(Mxfp4(), 8, 1, 0.4) == [8, 1, 0]
    # Blocks of 32 have their own.
    assert first(Mxfp4(), *([8] + [0] * 31 + [0.75, 0.0625])) == [8] + [0] * 31 + [0.75, 0.0625]
    assert Mxfp4().page_bytes == 1024 + 64


def test_nvfp4():
    # The tensor's largest value makes its scale 1; 7 / 6 becomes 1.125 as E4M3, 7 / 1.125 saturates at 6.
    values = [6 * 448] + [0] * 15 + [7, 1.1, 0.2]
    assert first(Nvfp4(), *values) == [6 * 448] + [0] * 15 + [6.75, 1.125, 0]
    # Without it the scale is the block's own: 7 / 6, and FP32.
    assert first(Nvfp4(), 7, 3.5) == pytest.approx([7, 3.5], rel=1e-6)
    # K does not see V: the second stream has scales of its own.
    both = page_values(6 * 448)
    both[1, 0, 0] = 7
    assert Nvfp4().round_trip(both)[1, 0, 0] == pytest.approx(7)
    assert Nvfp4().page_bytes == 1024 + 128


@pytest.mark.parametrize("form", [
    Integers("INT8 row", 8, 128), Integers("INT4 group 32", 4, 32), Fp8(), Mxfp4(), Nvfp4()])
def test_reference_formats_keep_zeros_and_shape(form):
    pages = np.zeros((4, 2, PAGE_BYTES), np.uint8)
    pages[3, 1, 1::2] = 0x3F
    decoded, stored = form.code(0, pages, np.dtype(bfloat16))
    assert decoded.shape == pages.shape and (decoded[:3] == 0).all() and decoded[3, 1].any()
    assert stored.shape == (4, 2) and (stored == form.page_bytes).all()


@pytest.mark.parametrize("form", [Compressor("zstd", 19), Compressor("LZ4", 9)])
def test_compressors(form):
    rng = np.random.default_rng(1)
    pages = np.stack([np.zeros((2, PAGE_BYTES), np.uint8), rng.integers(0, 256, (2, PAGE_BYTES), np.uint8)])
    decoded, stored = form.code(0, pages, np.dtype(np.float16))
    assert (decoded == pages).all()
    assert (stored[0] < 40).all() and (stored[1] == PAGE_BYTES).all()


def test_each_stream_has_its_codec_and_what_does_not_fit_is_raw():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((4, 3, 2048)).astype(np.float16)
    values[1, 2, 5] = np.inf
    form = CodecFormat("fixed", "some", (((("fixed", 8), ("fixed", 12)), (("raw", 0), ("lossless", 0))),))
    decoded, stored = form.code(0, values.view(np.uint8), np.dtype(np.float16))
    assert stored[:3].tolist() == [[1024] * 3, [1536, 1536, 4096], [4096] * 3] and (stored[3] < 4096).all()
    error = np.abs(decoded.view(np.float16)[:2, :2].astype(float) - values[:2, :2])
    assert error[0].mean() > 3 * error[1].mean() > 0
    assert decoded[1, 2].tobytes() == values[1, 2].tobytes() and decoded[2:].tobytes() == values[2:].tobytes()
    assert not form.lossless and CodecFormat.of("lossless").lossless
    checked = CodecFormat.of("fixed", 8, by_row=True)
    assert (checked.setting, CodecFormat.of("fixed", 8).setting) == ("8 by row", "8")
    error = [np.square(each.code(0, values[:1].view(np.uint8), np.dtype(np.float16))[0].view(np.float16)[0] - values[0])
             .mean() for each in (CodecFormat.of("fixed", 8), checked)]
    assert 1.1 * error[0] < error[1] < 1.5 * error[0]


def test_the_store_returns_what_the_format_made():
    rng = np.random.default_rng(1)
    k, v = rng.standard_normal((2, 32, 2, 128)).astype(np.float32)
    exact, same, coded = (make(1, 2, 128, 32, np.float16, *form) for make, form in (
        (ArrayStore, ()), (CodedStore, (CodecFormat.of("lossless"),)), (CodedStore, (CodecFormat.of("fixed", 8),))))
    for store in (exact, same, coded):
        store.append(0, k[:16], v[:16])
        store.append(0, k[16:], v[16:])
    assert np.array_equal(exact.read(0, 0, 32), same.read(0, 0, 32))
    want, got = np.array(exact.read(0, 5, 30)), np.array(coded.read(0, 5, 30))
    assert 0 < np.abs(want - got).max() < 1
    want, got = np.array(exact.read(0, 0, 32)), np.array(coded.read(0, 0, 32))
    damage = coded.damage
    assert damage.values == want.size and damage.worst == np.abs(want - got).max()
    assert damage.mean == pytest.approx(np.abs(want - got).mean(), rel=1e-5)
    assert damage.square == pytest.approx(np.square(want - got).sum(), rel=1e-5)
    assert same.damage.square == 0 and same.damage.snr_db is None
    assert [stored.tolist() for stored in coded.stored] == [[[1024]] * 4] * 2
    with pytest.raises(ValueError, match="whole pages of 16, not 3"):
        coded.append(0, k[:3], v[:3])


def test_signal_does_not_flatter():
    """A constant of a channel counts nothing; noise of variance 1 with errors of 1/10 is 20 dB."""
    rng = np.random.default_rng(1)
    before = 100 + rng.standard_normal((1000, 2, 128)).astype(np.float32)
    assert Damage.between(before, before + np.float32(0.1)).snr_db == pytest.approx(20, abs=0.1)


def test_the_pool_counts_what_it_cannot_use():
    config = DeviceConfig.small()
    # Beside the room of 33 sectors nine pages of 23 fill a superblock but for 16 sectors.
    assert capacity_ratio(config, [23] * 9, 1) == 9 * 4096 / ((9 * 23 + 16) * 128 + 9 * 16)
    # Eleven pages of 22 sectors in a superblock, at last.
    assert capacity_ratio(config, [22] * 10_000, 1) == pytest.approx(11 * 4096 / (256 * 128), rel=0.02)
    assert sectors_of(np.array([1, 128, 129, 4096])).tolist() == [1, 1, 2, 32]


def test_windows_are_spread_and_nested():
    few, many = bench.window_starts(8), bench.window_starts(16)
    assert many[:8] == few and len(set(many)) == 16 and max(many) > 140_000
    with pytest.raises(ValueError, match="from 1 to 156, not 157"):
        bench.window_starts(157)


def test_work_is_shared():
    tasks = {n: (divmod, (n, 3)) for n in range(7)}
    before = dict(os.environ)
    for jobs in (1, 2):
        assert dict(workers.run(tasks, jobs)) == {n: divmod(n, 3) for n in range(7)}
    assert dict(workers.run({}, 2)) == {} and dict(os.environ) == before


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Folders, rows and output of a run of one window."""
    folder = tmp_path_factory.mktemp("bench")
    output = io.StringIO()
    rows = bench.run(1, ("fixed 8", "LZ4", "NVFP4"), ("bfloat16",), 1, False, folder / "reports",
                     console=Console(width=200, file=output), folder=folder / "bench")
    return folder, rows, output.getvalue()


def test_a_row_says_what_was_measured(shown):
    folder, rows, output = shown
    assert json.loads((folder / "reports" / "codec.json").read_text()) == rows
    raw, fixed, nvfp4, lz4 = rows
    assert [row["codec"] for row in rows] == ["raw", "fixed", "NVFP4", "LZ4"]
    assert raw["ratio"] == pytest.approx(4096 / 4112) and raw["ppl_change_pct"] == 0 and raw["worst_error"] == 0
    assert fixed["setting"] == "8" and fixed["ratio"] == pytest.approx(4096 / 1040) and fixed["ratio_stored"] == 4
    assert fixed["bits_per_value"] == pytest.approx(16 / fixed["ratio"]) and 3.8 < fixed["ratio_pool"] < fixed["ratio"]
    assert nvfp4["payload_bits_per_value"] == 4.5 and nvfp4["ratio_stored"] == pytest.approx(32 / 9)
    assert fixed["ppl_change_pct"] != 0 and 15 < fixed["snr_db"] < 25 and 0 < fixed["mean_error"] < fixed["worst_error"]
    assert lz4["lossless"] and lz4["ppl_change_pct"] == 0 and 1 <= lz4["ratio_stored"] < 1.1
    assert all(row["tokens"] == 1024 and row["enc_clocks_per_line"] is None for row in rows)
    assert (folder / "reports" / "codec.png").read_bytes().startswith(b"\x89PNG")
    for text in ("NVFP4", "fixed 8", "not met lossless BF16 at ratio >= 1.42", "the pool's loss counted"):
        assert text in output


def test_a_run_goes_on_where_it_was_broken_off(shown, monkeypatch):
    folder, rows, _ = shown
    kept = next((folder / "bench" / "codec").glob("nvfp4*.jsonl"))
    whole, measured = kept.read_text(), []
    kept.write_text(whole[:100])
    real = bench.measure
    monkeypatch.setattr(bench, "measure", lambda group, start: measured.append(group) or real(group, start))
    again = bench.run(1, ("fixed 8", "LZ4", "NVFP4"), ("bfloat16",), 1, False, folder / "again",
                      console=Console(quiet=True), folder=folder / "bench")
    assert [row.form.name for group in measured for row in group] == ["NVFP4"]
    assert [row["codec"] for row in again] == [row["codec"] for row in rows]
    assert again[2]["ppl_change_pct"] == pytest.approx(rows[2]["ppl_change_pct"], abs=1e-3)


def test_results_of_other_code_do_not_count(monkeypatch):
    row = bench.Row(CodecFormat.of("fixed", 8), "bfloat16")
    before = row.key
    monkeypatch.setattr(bench, "_sources", lambda form: [b"other"])
    assert row.key != before and row.key.startswith("fixed-8-bfloat16-")


def test_a_format_that_lies_is_found():
    class Liar(Integers):
        lossless = True

    with pytest.raises(RuntimeError, match="INT8 row .*is not lossless"):
        bench.measure((bench.Row(Liar("INT8 row", 8, 128), "bfloat16"),), 0)


def row(codec, setting, ratio, change, lossless=False):
    return dict(codec=codec, setting=setting, dtype="bfloat16", ratio=ratio, ratio_pool=ratio - 0.1,
                ppl_change_pct=change, ppl_ci_pct=0.1, lossless=lossless)


def test_verdicts():
    rows = [row("lossless", "0", 1.43, 0, True), row("fixed", "a", 4.0, 0.6), row("fixed", "b", 4.2, 0.8),
            row("fixed", "c", 3.7, 0.15), row("NVFP4", "", 3.5, 1.4)]
    found = codec_report.verdicts(rows, Console(quiet=True))
    assert list(found.values()) == [True, True, True, True, False, True, False, True, False]
    # The paper's bar holds against NVFP4 as well.
    rows[-1]["ppl_change_pct"] = 1.1
    assert list(codec_report.verdicts(rows, Console(quiet=True)).values())[2] is False


def test_clocks_of_the_rtl(monkeypatch):
    config = DeviceConfig.small(codecs=("raw",), lanes=8)
    assert bench.rtl_clocks(config, CodecFormat.of("fixed", 8), "bfloat16") == (None, None)
    assert bench.rtl_clocks(config, Fp8(), "bfloat16") == (None, None)
    encode, decode = bench.rtl_clocks(config, CodecFormat.of("raw"), "float16")
    assert 1 <= encode <= 1.05 and 1 <= decode <= 1.05
    # What the RTL makes is looked at.
    monkeypatch.setattr("speckv_sim.codec.decode_pages", lambda codec, dtype, stored, lines: stored.reshape(1, -1) ^ 1)
    with pytest.raises(RuntimeError, match="the decoder makes something else of page 0"):
        bench.rtl_clocks(config, CodecFormat.of("raw"), "float16")
