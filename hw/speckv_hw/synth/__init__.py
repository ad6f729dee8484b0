"""Area and clock of every block on an ECP5 FPGA, by open tools: what `make synth` runs."""
