from exporters.otel.tracer import *
