from exporters.otel_tracer import *
