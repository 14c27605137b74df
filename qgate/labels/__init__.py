"""Labels: rows, answers, the store that keeps them, what it exchanges with files, and what they say together."""
