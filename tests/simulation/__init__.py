"""A whole training run in one thread: real server, real clients, simulated clock, network, disk. See README.md."""
