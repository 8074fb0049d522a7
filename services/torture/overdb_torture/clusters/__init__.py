"""Clusters of each kind that can be tortured: of local processes, of containers, or only reached."""
