from exporters.recorder.ring import *
