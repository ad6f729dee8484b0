"""The golden model: NumPy twins of every box of the hardware, and the emulated device made of them."""
