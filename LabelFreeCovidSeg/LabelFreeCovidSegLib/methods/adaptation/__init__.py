"""What domain adaptation is compared with: its network, taught in other ways (Chen et al., `methods.uda`).

Each file is one row: its card, and the rates that it is trained with. How it is trained, `training.adaptation` says.
"""
