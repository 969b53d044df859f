"""Small trained models that ship with the package, one folder each, with the command that trained them."""
