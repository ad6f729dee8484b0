"""The command line: ``speckv``."""

import click
from rich.console import Console
from rich.table import Table

from speckv_model.config import PRESETS
from speckv_sim.build import BuildError

from . import demo as demonstration
from . import fuzz, soak, soak_configs
from . import open as open_device
from .bench import codec as bench_codec
from .bench import link as bench_link
from .bench import memory as bench_memory
from .calibrate.command import command as calibrate_command
from .errors import SpeckvError
from .faults.command import command as faults_command

link_option = click.option("--link", type=click.Choice(list(demonstration.LINKS)), default="simulated",
                           show_default=True, help="The Verilated RTL, or the NumPy model.")
config_option = click.option("--config", "preset", type=click.Choice(PRESETS), default="default",
                             show_default=True, help="Configuration of the device.")


@click.group()
def main():
    """CXL-SpecKV: a CXL memory device for the KV cache of language models."""


@main.command()
@link_option
@config_option
@click.option("--tokens", type=click.IntRange(1), default=48, show_default=True, help="Tokens to generate.")
@click.option("--codec", default="speckv", show_default=True, help="The codec to compare with raw.")
@click.option("--dtype", type=click.Choice(["float16", "bfloat16"]), default="float16", show_default=True)
@click.option("--windows", type=click.IntRange(1), default=6, show_default=True, help="Held-out windows.")
@click.option(
    "--window", type=click.IntRange(16), default=256, show_default=True, help="Most tokens of each."
)
@click.option("--prompt", help="Text to continue.")
@click.option(
    "--reports",
    type=click.Path(file_okay=False),
    default=demonstration.REPORTS,
    help="Where demo.json and demo.png go; build/reports if not given.",
)
def demo(**options):
    """Generates text with every K and V in the device."""
    try:
        report = demonstration.main(**options)
    except (SpeckvError, BuildError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if not report["tokens_equal"]:
        raise click.ClickException("the tokens generated with codec raw differ from those of the NumPy cache")


@main.command()
@link_option
@config_option
def info(link, preset):
    """Opens a device and shows what it is."""
    try:
        with open_device(f"{demonstration.LINKS[link]}:{preset}") as device:
            config, stats = device.config, device.stats()
    except (SpeckvError, BuildError) as error:
        raise click.ClickException(str(error)) from error
    shown = Table(title=f"{link} device, configuration {preset}", show_header=False)
    for name, value in config.to_dict().items():
        shown.add_row(name, ", ".join(value) if isinstance(value, list) else f"{value:,}")
    shown.add_section()
    for name in ("window_bytes", "granule_pages", "dram_bytes"):
        shown.add_row(name, f"{getattr(config, name):,}")
    shown.add_row("pool sectors free", f"{stats.pool_free_sectors:,} of {stats.pool_sectors:,}")
    Console().print(shown)


@main.group()
def bench():
    """Measurements."""


bench.add_command(bench_codec.main, "codec")
bench.add_command(bench_link.main, "link")
bench.add_command(bench_memory.main, "memory")
main.add_command(calibrate_command)
main.add_command(soak.command)
main.add_command(soak_configs.command)
main.add_command(fuzz.command)
main.add_command(faults_command)


if __name__ == "__main__":
    main()
