"""Where the shards of a run are worked on: one file for each kind of place."""
