"""Where the trials of a search run: in this process, in several on this machine, or on a cluster."""
