from exporters.otel.upload import *
