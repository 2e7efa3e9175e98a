from exporters.recorder.telling import *
