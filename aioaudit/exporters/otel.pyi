from exporters.otel import *
