"""``speckv faults``."""

import click

from speckv_model.config import PRESETS

from ..soak import SEED
from .campaign import REPORTS, main


@click.command("faults")
@click.option("--faults", type=click.IntRange(1), default=10_000, show_default=True, help="How many, about.")
@click.option("--link", type=click.Choice(["sim", "emu"]), default="sim", show_default=True,
              help="The device under test.")
@click.option(
    "--config", "preset", type=click.Choice(PRESETS), default="small", show_default=True
)
@click.option(
    "--seed", type=int, default=SEED, show_default=True, help="Also from the environment: SPECKV_SEED."
)
@click.option("--reports", type=click.Path(file_okay=False), default=REPORTS,
              help="Where faults.json goes; build/reports if not given.")
def command(**options):
    """Faults in the device's DRAM: everything ends as poison or an error record, nothing as wrong data."""
    result = main(**options)
    if result["unexpected"] or not result["complete"]:
        raise SystemExit(1)
