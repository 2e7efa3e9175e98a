from exporters.recorder.kept import *
