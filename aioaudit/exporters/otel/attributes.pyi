from exporters.otel.attributes import *
