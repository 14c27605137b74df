"""NVIDIA's network pickles, read without running a line of them."""
