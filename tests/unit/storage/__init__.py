"""Tests of the storage room: what is on disk, and what is made of it after a crash."""
