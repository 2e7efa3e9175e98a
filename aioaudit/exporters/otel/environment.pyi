from exporters.otel.environment import *
