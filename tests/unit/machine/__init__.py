"""Tests of the state machine: one per rule, and a model beside it."""
