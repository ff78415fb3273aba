"""Feature networks, their published weights and their resizing rules. The door to them is ``drivesim.eval.features``."""
