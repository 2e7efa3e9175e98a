from exporters.otel_forks import *
