"""One file per command, loaded when the command runs: the flags are in ``drivesim.cli``, which starts fast because these come later."""
