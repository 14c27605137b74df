"""`mobile-stylegan`, the embedded default generator: its weights, its network in two forms, and the generator."""
