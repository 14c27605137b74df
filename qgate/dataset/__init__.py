"""The output folder of a run: shards, ledger, manifest, review sample, checks. Knows nothing of models."""
