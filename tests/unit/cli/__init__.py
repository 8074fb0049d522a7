"""Tests of the command line, against a router that does what it is told."""
