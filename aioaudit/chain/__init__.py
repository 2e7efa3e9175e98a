"""Private. Chains: from a cancelled task to its root cause, and what that says in words."""
