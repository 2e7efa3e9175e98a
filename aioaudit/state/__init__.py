"""Private. What is known now: tasks, requests, failures, what loops were given."""
