"""The data of a training: labels, votes, splits and pixels."""
