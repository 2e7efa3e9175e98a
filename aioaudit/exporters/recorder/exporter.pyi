from exporters.recorder.exporter import *
