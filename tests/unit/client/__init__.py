"""Tests of the client library, against a router that does what it is told."""
