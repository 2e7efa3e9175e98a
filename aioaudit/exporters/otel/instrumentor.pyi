from exporters.otel.instrumentor import *
