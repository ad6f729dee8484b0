"""Ways to a device: the model in this process, or the simulated RTL in a process of its own."""
