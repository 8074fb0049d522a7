"""Whole clusters of production processes in one simulated world: virtual time, a network, disks."""
