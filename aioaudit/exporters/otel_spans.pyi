from exporters.otel_spans import *
