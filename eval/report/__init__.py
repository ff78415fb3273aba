"""One HTML page about rollouts and their evaluations. The door is ``page.write_report``."""
