"""The command line. It has no logic of its own: a command reads options, calls other packages and prints the result."""
