"""``overdb local``: its layout, and its supervisor with processes that only pretend."""
