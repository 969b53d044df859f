"""``python -m trm_fast.cli`` is ``trm-fast``: what ``torchrun -m`` can start."""

from trm_fast.cli.main import main

main()
