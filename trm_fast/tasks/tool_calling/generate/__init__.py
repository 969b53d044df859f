"""The model tool-generate: calls written symbol by symbol, within a grammar."""
