"""Small trained models that ship with the package: a folder each, with the command that made it."""
