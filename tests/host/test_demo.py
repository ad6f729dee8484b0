"""The demonstration and the command line, with the emulated device."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from speckv import demo
from speckv.cli import main
from speckv_model.config import DeviceConfig

KEYS = {"link", "codec", "tokens", "tokens_equal", "ppl_base", "ppl_codec", "ratio", "cycles", "lines_read",
        "lines_written", "cycles_per_line", "hit_rate", "wall_s", "kv_mb_per_s"}
ARGUMENTS = [
    "demo",
    "--link",
    "emulated",
    "--config",
    "small",
    "--tokens",
    "4",
    "--windows",
    "2",
    "--window",
    "32",
]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Folder and output of a short demonstration."""
    folder = tmp_path_factory.mktemp("reports")
    result = CliRunner().invoke(main, [*ARGUMENTS, "--reports", str(folder)])
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_the_report_has_what_was_measured(shown):
    report = json.loads((shown[0] / "demo.json").read_text())
    assert report.keys() >= KEYS
    raw, speckv = report["runs"]
    assert (raw["codec"], speckv["codec"], report["codec"]) == ("raw", "speckv", "speckv")
    for run in (raw, speckv):
        assert run.keys() >= KEYS
        # Both windows, the prompt and each new token but the last are written; each step reads all tokens so
        # far.
        lines, prompt = 6 * 2 * 2 * 4, demo.PROMPT_TOKENS
        assert run["lines_written"] == lines * (2 * 32 + prompt + 3)
        assert run["lines_read"] == lines * (2 * 32 + sum(range(prompt, prompt + 4)))
        counters = run["counters"]
        assert run["cycles"] == run["lines_read"] + run["lines_written"] + counters["REQ_HINTS"]
        assert run["cycles_per_line"] == run["cycles"] / (run["lines_read"] + run["lines_written"])
        assert len(run["cycles_per_token"]) == 4
        assert sum(run["cycles_per_token"]) > lines * (prompt + 3 + sum(range(prompt, prompt + 4)))
        assert len(run["generated"]) == run["tokens"] == 4
        assert run["errors"] == 0 and 0 < run["hit_rate"] < 1 and run["kv_mb_per_s"] > 0
    assert raw["tokens_equal"] and raw["token_agreement"] == raw["prediction_agreement"] == 1
    assert raw["ppl_codec"] == raw["ppl_base"] and raw["ratio"] == 1
    assert raw["sealed_bytes"][0] == raw["sealed_bytes"][1]
    assert speckv["ppl_codec"] != speckv["ppl_base"] == raw["ppl_base"]
    assert 1.5 < speckv["ratio"] < 2 and speckv["sealed_bytes"][0] > 1.5 * speckv["sealed_bytes"][1]
    assert report["ratio"] == speckv["ratio"] and report["tokens_equal"] == raw["tokens_equal"]


def test_text_table_and_picture_are_shown(shown):
    folder, output = shown
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    for text in ("WaveTest", "os.path", "cycles per line", "hit rate", "ratio", "cycles are requests sent"):
        assert text in output


def test_a_device_that_changes_tokens_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "baseline", lambda model, task, dtype: demo.Baseline(
        [1] * task.count, [(np.zeros(16), np.zeros(16))]))
    result = CliRunner().invoke(
        main,
        [
            "demo",
            "--link",
            "emulated",
            "--config",
            "small",
            "--tokens",
            "1",
            "--windows",
            "1",
            "--window",
            "16",
            "--reports",
            str(tmp_path),
        ],
    )
    assert result.exit_code == 1 and "differ from those of the NumPy cache" in result.output


def test_windows_fit_the_pool():
    class Model:
        layers, kv_heads, max_tokens = 6, 2, 1024

    assert demo.window_tokens(DeviceConfig.default(), Model, 512) == 512
    assert demo.window_tokens(DeviceConfig.default(), Model, 5000) == 1024
    assert demo.window_tokens(DeviceConfig.small(), Model, 512) == 144


@pytest.mark.parametrize("arguments, message", [
    (["--codec", "zip"],
     "codec must be one that the device has (raw, speckv, lossless, fixed, variable), not 'zip'"),
    (["--tokens", "1000"], "tokens must be at most 960 after this prompt, not 1000"),
])
def test_bad_arguments_are_refused_in_words(arguments, message):
    result = CliRunner().invoke(main, ["demo", "--link", "emulated", *arguments])
    assert result.exit_code == 1 and message in result.output


def test_info_shows_the_configuration():
    result = CliRunner().invoke(main, ["info", "--link", "emulated", "--config", "small"])
    assert result.exit_code == 0
    assert (
        "cache_pages" in result.output
        and "raw, speckv" in result.output
        and "8,192 of 8,192" in result.output
    )


def test_a_single_window_has_no_interval():
    assert demo.interval(np.array([0.5])) == 0
    assert demo.interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(1.96 / np.sqrt(3))
