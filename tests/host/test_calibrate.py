"""Which setting each stream gets: against brute force, hand-made streams and the language model."""

import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner
from ml_dtypes import bfloat16

from speckv import calibrate
from speckv.calibrate import Calibration, allocate, allocate_in_pool, budget, choose, measure, ratio_at
from speckv.calibrate.divergence import divergences
from speckv.capacity import capacity_ratio
from speckv.cli import main
from speckv.formats import CodecFormat
from speckv.lm import TINYLM, ArrayStore, CodedStore, Llama, training_tokens
from speckv_model.config import DeviceConfig


def noise(rng, scales, kv_heads=2, tokens=64):
    """Values of one layer for each scale: list of (tokens, kv_heads, 128)."""
    return [scale * rng.standard_normal((tokens, kv_heads, 128)) for scale in scales]


def test_ratio_and_budget_count_sectors_and_entries():
    assert budget(4.0) == 7.875 and ratio_at(7.875) == 4.0
    assert ratio_at(32) == pytest.approx(4096 / 4112)


@pytest.mark.parametrize("seed", range(5))
def test_allocation_is_as_good_as_any(seed):
    """Against all choices; with losses that fall fourfold for each sector, and one unit of room to spare at most."""
    rng = np.random.default_rng(seed)
    settings = np.arange(3, 8)
    sectors = np.tile(settings, (4, 1)).astype(float)
    loss = rng.exponential(1, (4, 1)) * 4.0 ** -settings
    for total in range(12, 29):
        chosen = allocate(sectors, loss, total / 4)
        assert settings[chosen].sum() <= total
        best = min(loss[range(4), each].sum() for each in itertools.product(range(5), repeat=4)
                   if settings[list(each)].sum() <= total)
        assert loss[range(4), chosen].sum() == pytest.approx(best)


def test_a_setting_that_is_better_and_smaller_is_taken():
    assert allocate(np.array([[8.0, 8.0, 9.0]]), np.array([[2.0, 1.0, 3.0]]), 9).tolist() == [1]


def test_a_step_over_a_bad_setting_is_seen():
    # The second setting alone gains nothing, the third much.
    assert allocate(np.array([[7.0, 8.0, 9.0]]), np.array([[1.0, 1.0, 0.1]]), 9).tolist() == [2]


def test_too_small_a_budget_is_refused():
    with pytest.raises(ValueError, match="at least 7.000 sectors a page, not 6.5"):
        allocate(np.array([[7.0, 8.0]]), np.ones((1, 2)), 6.5)


def test_fixed_settings_are_sectors_and_errors_shrink():
    rng = np.random.default_rng(1)
    choices = measure(noise(rng, [1.0]), noise(rng, [1.0]), "fixed", np.dtype(bfloat16))
    assert choices.sectors.tolist() == [[setting for _, setting in choices.settings]] * 4
    assert (np.diff(choices.square, axis=1) < 0).all()


def test_without_a_model_louder_streams_get_more():
    rng = np.random.default_rng(1)
    choices = measure(noise(rng, [1.0, 1.0]), noise(rng, [0.25, 4.0]), "fixed", np.dtype(np.float16))
    calibration = choose(choices, 3.2, np.float16, {"source": "test"})
    settings = np.array(calibration.streams)[..., 1].astype(int)
    assert (settings[0, :, 1] < settings[:, :, 0].min()).all() and (settings[1, :, 1] > settings[:, :, 0].max()).all()
    assert calibration.ratio >= 3.2
    assert calibration.ratio == pytest.approx(ratio_at(settings.mean()))


def test_equal_weights_give_variable_the_same_step():
    """The slope of squared error against rate is equal where the steps are: rate-distortion theory, fine steps."""
    rng = np.random.default_rng(1)
    choices = measure(noise(rng, [1.0, 2.0]), noise(rng, [1.5, 1.0]), "variable", np.dtype(np.float16))
    calibration = choose(choices, 3.0, np.float16, {"source": "test"})
    settings = np.array(calibration.streams)[..., 1].astype(int)
    assert np.ptp(settings) <= 8, "within a factor of two"
    assert 3.0 <= calibration.ratio < 3.1


def test_each_stream_gets_the_codec_that_suits_it():
    """Rows of one loudness suit `variable`, which has one step for all; rows of many loudnesses suit `fixed`."""
    rng = np.random.default_rng(1)
    even = noise(rng, [1.0, 1.0], tokens=128)
    uneven = [each * np.exp2(rng.integers(-6, 6, (128, 1, 1))) for each in noise(rng, [1.0, 1.0], tokens=128)]
    both = measure(even, uneven, "mixed", np.dtype(np.float16), weights=np.tile([1.0, 1e-4], 4))
    alone = [measure(even, uneven, codec, np.dtype(np.float16), both.weights[:, 0]) for codec in ("fixed", "variable")]
    assert both.settings == alone[0].settings + alone[1].settings
    chosen = choose(both, 3.4, np.float16, {"source": "test"})
    assert chosen.format().codecs == {"fixed", "variable"} and chosen.format().name == "mixed"

    def lost(choices):
        chosen = allocate(choices.sectors, choices.loss, budget(3.4))
        return choices.loss[np.arange(8), chosen].sum()

    assert lost(both) < min(map(lost, alone))


def test_the_pool_loss_counts_where_it_is_asked_for():
    rng = np.random.default_rng(1)
    config = DeviceConfig.default()
    choices = measure(noise(rng, [1.0, 1.5, 2.0]), noise(rng, [1.0, 1.2, 0.7]), "fixed", np.dtype(bfloat16))

    def held(chosen):
        sectors = choices.sectors[np.arange(12), chosen].astype(int)
        return capacity_ratio(config, np.tile(sectors, 200), 12)

    assert held(allocate(choices.sectors, choices.loss, budget(3.4))) < 3.4
    assert held(allocate_in_pool(choices, 3.4, config)) >= 3.4


def test_weights_are_divergence_for_squared_error():
    model, window = Llama.load(), training_tokens()[:64]
    choices = calibrate.with_model([window], "fixed", np.dtype(bfloat16), jobs=1)
    assert choices.weights.shape == choices.square.shape and (choices.weights > 0).all()
    # K of layer 1, head 1 by hand; streams are ordered by layer, head, kind.
    streams = [[[("raw", 0)] * 2 for _ in range(2)] for _ in range(6)]
    streams[1][1][0] = "fixed", 8
    store = CodedStore(6, 2, 128, 64, bfloat16, CodecFormat("fixed", "", tuple(streams)))
    exact = ArrayStore(6, 2, 128, 64, bfloat16)
    want, got = (np.exp(model.forward(window, each).astype(np.float64)) for each in (exact, store))
    want, got = (each / each.sum(axis=1, keepdims=True) for each in (want, got))
    divergence = (want * np.log(want / got)).sum(axis=1).mean()
    error = exact.read(1, 0, 64)[0][:, 1] - store.read(1, 0, 64)[0][:, 1]
    weights, at = choices.weights[1 * 4 + 1 * 2], choices.settings.index(("fixed", 8))
    assert weights[at] == pytest.approx(divergence / np.square(error).mean(), rel=0.01)
    # Sectors are settings. Measured at 7, 8 and 11; between them on a line of logarithms, beyond them as at the last.
    assert np.ptp(np.diff(np.log(weights[1:5]))) == pytest.approx(0, abs=1e-9)
    assert (weights[5:] == weights[4]).all() and weights[0] != weights[1]


def test_layers_that_are_as_in_the_first_coding_need_not_run_again():
    window, dtype = training_tokens()[:64], np.dtype(bfloat16)
    rng = np.random.default_rng(1)
    codings = [(((("fixed", 8),) * 2,) * 2,) * 6]
    for layer in (0, 3, 5, 5):
        other = ((("fixed", int(rng.integers(9, 17))), ("variable", 120)),) * 2
        codings.append(codings[0][:layer] + (other,) + codings[0][layer + 1:])
    together = divergences(TINYLM, window, codings, dtype)[0]
    alone = [divergences(TINYLM, window, [each], dtype)[0, 0] for each in codings]
    assert together.tolist() == alone and len(set(alone[:4])) == 4 and min(alone) > 0


def test_a_calibration_survives_its_file(tmp_path):
    made = Calibration(((("fixed", 8), ("fixed", 7)),) * 2, "bfloat16", 3.9, {"tokens": 5, "wanted_ratio": 3.9})
    made = Calibration((made.streams, made.streams), *list(vars(made).values())[1:])
    made.save(tmp_path / "it.json")
    found = Calibration.load(tmp_path / "it.json")
    assert found == made
    assert found.format().of_stream(1, 3) == ("fixed", 7) and found.format().setting == "calibrated 3.9"


@pytest.mark.parametrize("streams, message", [
    ([[[["fixed", 99], ["fixed", 8]]]], "settings that fixed takes, not 99"),
    ([[[["zip", 1], ["fixed", 8]]]], "codecs that exist, not 'zip'"),
    ([[["fixed", 8]]], "must hold a calibration"),
])
def test_a_bad_file_is_refused(tmp_path, streams, message):
    path = tmp_path / "it.json"
    path.write_text(json.dumps({"streams": streams, "dtype": "bfloat16", "ratio": 4, "provenance": {}}))
    with pytest.raises(ValueError, match=message):
        Calibration.load(path)


def test_the_command_calibrates_samples(tmp_path):
    rng, output = np.random.default_rng(1), tmp_path / "calibration.json"
    np.savez(tmp_path / "kv.npz", k=noise(rng, [1.0, 2.0], 1), v=noise(rng, [0.5, 1.0], 1))
    arguments = ["calibrate", "--samples", str(tmp_path / "kv.npz"), "--output", str(output), "--ratio"]
    result = CliRunner().invoke(main, [*arguments, "3.6"])
    assert result.exit_code == 0, result.output
    found = Calibration.load(output)
    assert np.shape(found.streams) == (2, 1, 2, 2) and found.ratio >= 3.6
    assert found.provenance["source"] == "samples" and found.provenance["tokens"] == 64
    result = CliRunner().invoke(main, [*arguments, "9"])
    assert result.exit_code == 1 and "mean must be at least 7.000 sectors" in result.output


@pytest.mark.parametrize("arrays, message", [
    (dict(x=np.zeros(3)), "must hold arrays k and v, not x"),
    (dict(k=np.zeros((1, 16, 128)), v=np.zeros((1, 16, 128))), "of one shape"),
])
def test_bad_samples_are_refused_in_words(tmp_path, arrays, message):
    np.savez(tmp_path / "kv.npz", **arrays)
    result = CliRunner().invoke(main, ["calibrate", "--samples", str(tmp_path / "kv.npz")])
    assert result.exit_code == 1 and message in result.output.replace("\n", " ")
