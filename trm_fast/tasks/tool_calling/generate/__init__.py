"""The task ``tool-generate``: calls written symbol by symbol, within a grammar."""
