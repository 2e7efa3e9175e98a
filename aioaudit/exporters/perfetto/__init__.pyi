from exporters.perfetto import *
