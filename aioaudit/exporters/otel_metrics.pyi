from exporters.otel_metrics import *
