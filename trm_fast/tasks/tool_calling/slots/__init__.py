"""The task ``tool-slots``: a decision, a tool, its arguments and the slots, as spans of the history or known values."""
