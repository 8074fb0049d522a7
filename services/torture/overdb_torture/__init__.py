"""Real faults on real clusters under load, and judges of what clients saw. See DESIGN.md beside it."""
