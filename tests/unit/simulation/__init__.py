"""Tests of the simulator's own parts: what it promises about disks must be so."""
