"""How cost, memory and interruptions grow with data, groups and trouble: `make growth`."""
