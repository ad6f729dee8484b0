"""The simulated device: the RTL, Verilated, with a C++ harness and a DRAM model in a process of its own."""
