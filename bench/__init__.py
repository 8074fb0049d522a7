"""OverDB measured, side by side with other stores: `make bench`."""
