"""Private. What happens to tasks is entered into the state here, and told."""
