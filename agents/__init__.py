"""The algorithms, and the contract they share."""
