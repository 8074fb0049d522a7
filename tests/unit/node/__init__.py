"""The replica process in parts."""
