"""The soak of random configurations, as far as it needs no simulation."""

import numpy as np
from click.testing import CliRunner

from speckv.soak_configs import command, random_config


def test_a_run_of_nothing_is_refused(tmp_path):
    result = CliRunner().invoke(command, ["--configs", "3", "--first", "3", "--reports", str(tmp_path)])
    assert result.exit_code == 2
    assert "first must be less than configs, 3" in result.output and not list(tmp_path.iterdir())


def test_random_configurations_differ():
    configs = [random_config(np.random.default_rng([1, number])) for number in range(20)]
    assert len({config.digest() for config in configs}) == 20
    assert {config.lanes for config in configs} == {8, 16, 32}
