"""The device in Amaranth: one folder per box of the block picture."""
