"""``python -m trm_fast.cli`` is ``trm-fast``."""

from trm_fast.cli.main import main

main()
