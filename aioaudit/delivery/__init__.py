"""Private. From the recorder to the exporters: what is queued, the queue, and lines of JSON."""
