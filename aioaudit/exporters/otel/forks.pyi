from exporters.otel.forks import *
