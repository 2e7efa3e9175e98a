from exporters.otel.metrics import *
