"""The model tool-select: which of a request's own tools are called, and with which of its words."""
