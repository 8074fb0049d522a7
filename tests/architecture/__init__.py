"""Tests of how the rooms may use each other."""
