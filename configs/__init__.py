"""Configuration files, found by Hydra as pkg://drivesim.configs."""
