"""Many scenarios to one dataset: what all processes agree on, what each makes, and who hands out the work."""
