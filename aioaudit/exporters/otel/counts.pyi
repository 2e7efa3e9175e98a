from exporters.otel.counts import *
