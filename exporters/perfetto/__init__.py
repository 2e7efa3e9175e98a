"""Private. A log as a trace of Perfetto: lives as slices, cancellations as arrows between them."""
