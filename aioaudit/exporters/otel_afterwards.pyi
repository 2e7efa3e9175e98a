from exporters.otel_afterwards import *
