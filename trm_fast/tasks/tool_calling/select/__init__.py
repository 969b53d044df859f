"""The task ``tool-select``: which of the tools that come with a request are called, and with which of its words."""
