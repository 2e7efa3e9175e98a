from exporters.otel.replay import *
