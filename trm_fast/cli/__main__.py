"""Makes ``python -m trm_fast.cli`` the same as ``trm-fast``, because ``torchrun -m`` starts modules, not scripts."""

from trm_fast.cli.main import main

main()
