"""The gate: its bundle on disk, the classifier made of it, the decision, and heat maps."""
